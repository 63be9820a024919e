"""Where other threads are, as text.

What belongs here: looking at a running thread without stopping or crashing the interpreter. What
does not: which threads, and what is told of them (:mod:`.serving`).
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from types import FrameType

__all__ = ["stacks_of"]

_Stack = list[tuple[str, int, str, str | None]]

# Held by who has changed the switch interval.
_interval_lock = threading.Lock()


def stacks_of(threads: Iterable[threading.Thread]) -> dict[threading.Thread, str]:
    """The stacks of those threads that run, as ``traceback.format_stack()`` writes them.

    No other thread runs meanwhile, as far as that can be had. On Python 3.11 a frame crashes the
    interpreter if its thread returns from it while the frames behind it are followed.
    """
    wanted = {thread.ident: thread for thread in threads}
    if not wanted:
        return {}
    interval = None
    alone = _interval_lock.acquire(blocking=False)
    try:
        if alone:
            # Behind the lock: before, it may be what another one has set.
            interval = sys.getswitchinterval()
            sys.setswitchinterval(1.0)
            time.sleep(0)  # whoever has asked for his turn already has it now
        frames = _current_frames()
        stacks = {wanted[ident]: _stack(frames[ident]) for ident in frames if ident in wanted}
    finally:
        if interval is not None:
            sys.setswitchinterval(interval)
        if alone:
            _interval_lock.release()
    # Reads source files, so not above.
    return {
        thread: "".join(traceback.StackSummary.from_list(stack).format())
        for thread, stack in stacks.items()
    }


def _stack(frame: FrameType | None) -> _Stack:
    stack: _Stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, None))
        frame = frame.f_back
    return stack[::-1]


def _current_frames() -> dict[int, FrameType]:
    """What each thread is doing, by its identifier."""
    # Python 3.11 holds the lock of its list of threads meanwhile, and may collect garbage. If
    # a finalizer lets go of the interpreter's lock then, as those of cffi do, a thread that ends
    # just now takes it and waits for the first one for ever, and so does everybody else.
    collects = gc.isenabled()
    try:
        gc.disable()
        return sys._current_frames()
    finally:
        if collects:
            gc.enable()
