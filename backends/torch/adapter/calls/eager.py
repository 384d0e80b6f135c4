"""What one thread alone sees is computed without the compiler: a graph that was traced is guarded by nothing of a thread."""

import contextlib
import sys
import threading

_lock, _inside, _stance = threading.Lock(), 0, None


@contextlib.contextmanager
def eager():
    """Within the block, and until the last of several such blocks ends, compiled models run as they are written, in all threads.

    The compiler's stance is one of the process, so that those that overlap count. Nothing is done where nothing was compiled.
    """
    _come_in()
    try:
        yield
    finally:
        _go_out()


def _come_in():
    global _inside, _stance
    with _lock:
        _inside += 1
        if _stance is None and "torch._dynamo" in sys.modules:  # else importing it would take seconds
            import torch

            _stance = torch.compiler.set_stance("force_eager")


def _go_out():
    global _inside, _stance
    with _lock:
        _inside -= 1
        if not _inside and _stance is not None:
            _stance.__exit__(None, None, None)
            _stance = None
