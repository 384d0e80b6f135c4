"""Shows on standard error what a command is doing, for whoever waits for it."""

import contextlib
import sys
import threading
from collections.abc import Callable

from unilora_spec.command import printable, say

from .processes import is_first

FIRST, EVERY = 1.0, 10.0  # seconds until the first line, and between two


@contextlib.contextmanager
def waiting(doing: Callable[[], str]):
    """Within the block, shows what ``doing()`` gives: on a terminal at once, elsewhere as a line after one second and
    then every ten. A thread calls ``doing``, so that a line appears also while one step takes minutes; "" shows
    nothing. Of several processes only the first shows it."""
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
