"""Signals during a run: they ask it to stop, and never break a save off."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class StopRequest:
    """Whether a signal has asked the run to stop."""

    requested = False

    def check(self) -> None:
        """KeyboardInterrupt where it has."""
        if self.requested:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Inside the block Ctrl-C, SIGTERM and a closed terminal (SIGHUP) only set `requested`.

    A signal that is ignored stays ignored (nohup). Outside the main thread, where Python delivers
    no signals, nothing changes.
    """
    stop = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        stop.requested = True

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
