"""`python -m imagen_model` is `imagen`."""

import sys

from .cli import main

sys.exit(main())
