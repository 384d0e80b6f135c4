"""How everything is measured: in turns, round after round, so that what a machine does beside it reaches all alike."""

import cProfile
import os
import platform
import pstats
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

DRAWS = 2000
ENTRIES = 8  # of a profile
NARROW = 0.02  # half of an interval, as a part of the ratio, from which on more rounds tell nothing more


@dataclass(frozen=True)
class Repeats:
    """How often something is measured: ``least`` rounds, and more of them while the seconds last and its ratios are uncertain.

    ``seconds`` counts from the first round; 0 leaves it at ``least``. ``tick`` is called after each round with its number.
    """

    least: int
    seconds: float = 0.0
    tick: Callable[[int], None] = lambda number: None

    def __iter__(self) -> Iterator[int]:
        """The numbers of the least rounds."""
        for number in range(self.least):
            yield number
            self.tick(number)

    def until(self, enough: Callable[[], bool]) -> Iterator[int]:
        """The numbers of the least rounds and, while ``enough`` is not so and the seconds last, of as many again."""
        end, number = time.monotonic() + self.seconds, 0
        while number == 0 or (time.monotonic() < end and not enough()):
            for _ in range(self.least):
                yield number
                self.tick(number)
                number += 1


Rounds = Callable[[int], Repeats]  # how often, of the number of rounds that a row asks for


def clocks(step: Callable, *arguments) -> tuple[float, float]:
    """Seconds of a call by the clock on the wall, and of processor time in all threads of this process."""
    start, processor = time.perf_counter(), time.process_time()
    step(*arguments)
    return time.perf_counter() - start, time.process_time() - processor


def alternate(
    steps: dict[str, Callable], repeats: Repeats, prepare: Callable = tuple, seconds: Callable = clocks
) -> dict[str, np.ndarray]:
    """Seconds of every step in each of the rounds by name, as ``seconds`` takes them; a first round is not counted.

    By default they are float64[rounds, 2], of the clock and of the processor; where ``seconds`` gives one number, float64[rounds].

    A round runs every step once. Their order rotates, and is turned round each time that all have been first, so that
    none always runs after the same one. ``prepare`` makes the arguments of a step, outside of its time. There are more
    rounds while the ratio of any step to the first one is uncertain by more than ``NARROW``.
    """
    names, times = list(steps), {name: [] for name in steps}
    for step in steps.values():
        step(*prepare())
    for number in repeats.until(lambda: all(_narrow(times[name], times[names[0]]) for name in names[1:])):
        turns, first = divmod(number, len(names))
        order = names[first:] + names[:first]
        for name in reversed(order) if turns % 2 else order:
            times[name].append(seconds(steps[name], *prepare()))
    return {name: np.array(found) for name, found in times.items()}


def compared(
    name: str,
    measured: Sequence[float],
    against: Sequence[float],
    at_most: float | None = None,
    unit: str = "s",
    bounds: str = "ratio",
    profile: str | None = None,
) -> dict:
    """One line of a row: what was measured and what it stands against, as ``alternate`` gives them; of counts, one number.

    ``ratio`` is that of the medians, ``low`` to ``high`` its 90 % interval over rounds drawn anew, the same for both. The
    bound ``at_most`` is on the ratio, or on what was measured, as ``bounds`` says; None is for information. ``processor`` has
    the same three of the processor's time, or is None where none was taken.
    """
    (measured, *processor), (against, *theirs) = _columns(measured), _columns(against)
    return {
        "name": name,
        "unit": unit,
        "rounds": len(measured),
        "measured": _spread(measured),
        "against": _spread(against),
        **_ratio(measured, against),
        "processor": _ratio(*processor, *theirs) if processor and theirs else None,
        "at_most": at_most,
        "bounds": bounds,
        "profile": profile,
    }


def _columns(values) -> np.ndarray:
    """float64[1 or 2, rounds]."""
    return np.atleast_2d(np.asarray(values, float).T)


def _ratio(measured, against) -> dict:
    drawn = np.random.default_rng(0).integers(0, len(measured), (DRAWS, len(measured)))
    with np.errstate(divide="ignore", invalid="ignore"):  # a clock may be too coarse for what is short
        ratios = np.median(measured[drawn], axis=1) / np.median(against[drawn], axis=1)
        low, high = np.quantile(ratios, (0.05, 0.95))
        ratio = np.median(measured) / np.median(against)
    return {"ratio": float(ratio), "low": float(low), "high": float(high)}


def _narrow(measured, against) -> bool:
    found = _ratio(_columns(measured)[0], _columns(against)[0])
    return found["high"] - found["low"] <= 2 * NARROW * found["ratio"]


def _spread(values) -> dict:
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "quartiles": [float(lower), float(upper)]}


def operators(step: Callable, base: Callable | None, rounds: Iterable[int], on_gpu: bool = False) -> list:
    """[operator, milliseconds] of a step less those of ``base``, largest first, without what an operator calls: the
    CPU's time, or the GPU's. The median over the rounds, in each of which both are profiled."""
    differences = []
    for _ in rounds:
        times = Counter()
        for sign, function in ((1, step), (-1, base)) if base else ((1, step),):
            with torch.profiler.profile() as profiler:
                function()
            for event in profiler.key_averages():
                own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
                times[event.key] += sign * own / 1e3
        differences.append(times)
    names = set().union(*differences)
    found = [[name, float(np.median([times[name] for times in differences]))] for name in names]
    return sorted(found, key=lambda entry: (-abs(entry[1]), entry[0]))[:ENTRIES]


def functions(step: Callable) -> list:
    """[function, milliseconds] of a step in Python, without what a function calls; NumPy's operators are no calls."""
    profiler = cProfile.Profile()
    profiler.runcall(step)
    found = []
    for (file, line, name), (_, _, own, *_) in pstats.Stats(profiler).stats.items():
        found.append([name if file == "~" else f"{Path(file).stem}.{name}", 1e3 * own])
    return sorted(found, key=lambda entry: -entry[1])[:ENTRIES]


def row(number: int, title: str, measured: str, against: str, how: str, lines: list[dict], **more) -> dict:
    """A row of the JSON. ``more``: ``profiles`` by the names in lines; ``absent``, a sentence in place of lines."""
    about = {"row": number, "title": title, "measured": measured, "against": against, "how": how}
    return about | {"lines": lines, "profiles": {}, "absent": None} | more


def machine(threads: int) -> dict:
    """What measures: processor, cores, the threads that torch has of them, memory in bytes, a GPU's name or None."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.open() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
