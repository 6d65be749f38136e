"""Ctrl-C during a run: the epoch is ended and saved first."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed since the context began; it raises nothing by itself.

    An exception in the middle of a save can leave its threads waiting for each other for good. An epoch is
    one compiled call, which no signal enters, so waiting for its end costs nothing. Pressed again, the
    process ends at once; complete checkpoints stay. Only where Python's own handler is in place, so on the
    main thread.
    """
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            os._exit(130)
        pressed.set()
        print("\nstopping after this epoch; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
