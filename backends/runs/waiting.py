"""What whoever waits for a command is told of what it is doing, on standard error."""

import contextlib
import sys
import threading
from collections.abc import Callable

from unilora_spec.command import printable, say

from .processes import is_first

FIRST, EVERY = 1.0, 10.0  # seconds until the first line, and between two


@contextlib.contextmanager
def waiting(doing: Callable[[], str]):
    """Within the block, what is being done is shown: on a terminal at once, elsewhere by a line after a second and every ten from
    then on. A thread asks for it, so that it is told also while one step takes minutes; "" is not told. Of several processes the
    first tells alone."""
    if not is_first():
        yield
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(printable(doing()))):
            yield
        return
    done = threading.Event()

    def tell():
        seconds = FIRST
        while not done.wait(seconds):
            seconds = EVERY
            if line := doing():
                say(line)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
