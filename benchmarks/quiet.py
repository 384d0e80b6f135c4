"""What other programs do with the processors, from Linux's /proc/stat: waited for before a row, and told with it."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = (
    "user",
    "nice",
    "system",
    "irq",
    "softirq",
    "steal",
)  # fields of the line cpu; a guest's time is in user's already
FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
LOOK = 1.0  # seconds in which the machine is looked at
QUIET = 0.1  # processors that others may have


class Others:
    """What others have of the processors since it was made, or since the last ``restart``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, busy: Callable[[], float] | None = None):
        self._clock, self._busy = clock, busy or of_others
        self.restart()

    def restart(self) -> None:
        """From now on."""
        self._start = self._clock(), self._busy()

    def processors(self) -> float:
        """How many of them others had at a time, on average."""
        start, busy = self._start
        return max(0.0, (self._busy() - busy) / max(self._clock() - start, 1e-9))


def of_others() -> float:
    """Seconds of processor time that all other programs have had since the machine was started, and that a host took from it."""
    values = dict(zip(FIELDS, map(int, STAT.read_text().split("\n", 1)[0].split()[1:])))
    own = sum(
        resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return sum(values[name] for name in BUSY) / os.sysconf("SC_CLK_TCK") - own


def wait(seconds: float, others: Others | None = None, sleep: Callable[[float], None] = time.sleep) -> float:
    """Waits until others have no more than ``QUIET`` processors, or the seconds are over; how many they had at the end."""
    others, looks = others or Others(), max(1, round(seconds / LOOK))
    for _ in range(looks):
        others.restart()
        sleep(LOOK)
        found = others.processors()
        if found <= QUIET:
            break
    return found
