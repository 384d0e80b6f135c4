"""How everything is measured: in turns, round after round, so that what a machine does beside it reaches all alike."""

import cProfile
import os
import platform
import pstats
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

DRAWS = 2000
ENTRIES = 8  # of a profile
Rounds = Callable[[int], Iterator[int]]  # the numbers of so many rounds, or of the few of a quick run


def alternate(steps: dict[str, Callable], rounds: Iterable[int], prepare: Callable = tuple) -> dict[str, np.ndarray]:
    """Seconds of every step in each of the rounds, float64[rounds] by name; a first round is not counted.

    A round runs every step once. Their order rotates, and is turned round each time that all have been first, so that
    none always runs after the same one. ``prepare`` makes the arguments of a step, outside of its time.
    """
    names, times = list(steps), {name: [] for name in steps}
    for step in steps.values():
        step(*prepare())
    for number in rounds:
        turns, first = divmod(number, len(names))
        order = names[first:] + names[:first]
        for name in reversed(order) if turns % 2 else order:
            arguments = prepare()
            start = time.perf_counter()
            steps[name](*arguments)
            times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds) for name, seconds in times.items()}


def compared(
    name: str,
    measured: Sequence[float],
    against: Sequence[float],
    at_most: float | None = None,
    unit: str = "s",
    bounds: str = "ratio",
    profile: str | None = None,
) -> dict:
    """One line of a row: what was measured and what it stands against, a value for each round; of counts, one.

    ``ratio`` is that of the medians, ``low`` to ``high`` its 90 % interval over rounds drawn anew, the same for both.
    The bound ``at_most`` is on the ratio, or on what was measured, as ``bounds`` says; None is for information.
    """
    measured, against = np.asarray(measured, float), np.asarray(against, float)
    drawn = np.random.default_rng(0).integers(0, len(measured), (DRAWS, len(measured)))
    low, high = np.quantile(np.median(measured[drawn], axis=1) / np.median(against[drawn], axis=1), (0.05, 0.95))
    return {
        "name": name,
        "unit": unit,
        "rounds": len(measured),
        "measured": _spread(measured),
        "against": _spread(against),
        "ratio": float(np.median(measured) / np.median(against)),
        "low": float(low),
        "high": float(high),
        "at_most": at_most,
        "bounds": bounds,
        "profile": profile,
    }


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
