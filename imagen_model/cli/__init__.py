"""The command `imagen`: main.py runs it, common.py has what commands share, then one file each."""

from .main import main

__all__ = ["main"]
