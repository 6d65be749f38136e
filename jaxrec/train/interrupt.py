"""Ctrl-C and SIGTERM during a run: the epoch is ended and saved first."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupt:
    """Whether the process was asked to end. A scheduler that takes a machine back sends SIGTERM."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __call__(self) -> bool:
        return self._signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; the second ends the process at once."""
        if self._signal is not None:
            os._exit(128 + number)
        self._signal = number
        again = "Ctrl-C again" if number == signal.SIGINT else "a second SIGTERM"
        print(f"\nstopping after this epoch; {again} stops at once", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the process as the signal would have; nothing without one.

        Raises:
          KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self._signal == signal.SIGTERM:
            print("terminated; run the same command to continue", file=sys.stderr)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.kill(os.getpid(), signal.SIGTERM)  # so that whoever waits for the process sees the signal
        if self._signal is not None:
            raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """What says whether Ctrl-C was pressed, or SIGTERM came, since the context began; nothing is raised.

    An exception in the middle of a save can leave its threads waiting for each other for good. An epoch is
    one compiled call, which no signal enters, so waiting for its end costs nothing. At a second signal the
    process ends at once; complete checkpoints stay. Only where the handlers of a plain Python program are in
    place, so on the main thread.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    plain = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: handler for number, handler in plain.items() if signal.getsignal(number) == handler}
    for number in before:
        signal.signal(number, interrupt.handle)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
