"""Runs compiled models as they are written while a thread has factors of its own: a traced graph has no guard for a
thread's state."""

import contextlib
import sys
import threading

_lock, _inside, _stance = threading.Lock(), 0, None


@contextlib.contextmanager
def eager():
    """Within the block, and until the last of several such blocks ends, compiled models run as they are written, in all threads.

    The compiler's stance is that of the process, so that overlapping blocks are counted. Nothing is done where nothing
    was compiled.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter():
    global _inside, _stance
    with _lock:
        _inside += 1
        if _stance is None and "torch._dynamo" in sys.modules:  # else importing it would take seconds
            import torch

            _stance = torch.compiler.set_stance("force_eager")


def _leave():
    global _inside, _stance
    with _lock:
        _inside -= 1
        if not _inside and _stance is not None:
            _stance.__exit__(None, None, None)
            _stance = None
