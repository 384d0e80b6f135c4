"""The reader under attack (SPEC 8.9): sound and hostile files, mutated, end in an adapter or in a refusal, fast and lean.

    python tests/fuzz_reader.py --inputs 1000000 --seed 0        or: make fuzz
    python tests/fuzz_reader.py --file build/fuzz/input-0-123    one input again

Input i follows from the seed and i alone, so that it is the same in every process and however the work is split. What
breaks a check is written to build/fuzz. Every finding of a run so far is a case of test_file_sound.py; the hostile files of the
conformance tests are seeds here. Linux only: the memory of a reading is read from /proc.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import test_file
from fuzz_corpus import Corpus
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from unilora_spec import FileError, UniLoraError
from unilora_spec.serialization import decode, encode

MOST_SECONDS = 1.0  # of one reading
MOST_MEMORY = 4, 2**24  # of one reading: times the file, plus bytes. What JSON of 256 KiB unfolds to is below 2^24.
MOST_TEXT = 2000  # characters of a refusal, which may hold a name of 512
HANG = 30  # seconds of computing after which one input is given up
BLOCK = 250  # inputs that a process takes at once
FOLDER = Path("build/fuzz")
_kept = None  # the corpus and the checker of a process that checks


class Finding(Exception):
    """One input that breaks one of the checks."""


# The checks


class Memory:
    """The largest resident memory of this process since ``start``, in bytes beyond the level before.

    The kernel's own high-water mark, which writing 5 to clear_refs sets back (getrusage's cannot be), takes 7 µs to
    read, sees all that a reading does and slows nothing down. But what the allocators keep of earlier inputs is in it
    too, up to some MiB, or hides as much of a later input's use. So the level is the lowest seen, and the mark is a
    sieve: what comes near the limit is read again under tracemalloc, which counts the allocations themselves, NumPy's
    included, at three times the time.
    """

    def __init__(self):
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self._trim = ctypes.CDLL(None).malloc_trim
        self._trim(0)  # what was freed before would take in an input's use unseen
        self._level = self._read(b"VmRSS:")

    def start(self, size: int) -> None:
        """``size`` is that of the input, which lies in memory already."""
        now = self._read(b"VmRSS:") - size
        if now > self._level + 2**22:
            self._trim(0)
            now = self._read(b"VmRSS:") - size
        self._level = min(self._level, now)
        self._size = size
        os.pwrite(self._reset, b"5", 0)

    def grown(self) -> int:
        return self._read(b"VmHWM:") - self._level - self._size

    def _read(self, field) -> int:
        return int(os.pread(self._status, 4096, 0).partition(field)[2].split(None, 1)[0]) * 1024


@dataclass
class Result:
    """What a range of inputs led to."""

    inputs: int = 0
    outcomes: Counter = field(default_factory=Counter)
    slowest: tuple = (0.0, -1)
    largest: tuple = (0, -1)
    findings: list = field(default_factory=list)

    def add(self, other) -> None:
        self.inputs += other.inputs
        self.outcomes += other.outcomes
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        self.findings += other.findings


class Checker:
    """Reads inputs and checks how each ends. ``read`` is the reader, another one where the checks themselves are tested."""

    def __init__(self, read=decode):
        self.read = read
        signal.signal(signal.SIGVTALRM, _hang)
        decode(test_file.DATA)  # so that what a first call alone allocates is not a finding
        gc.collect()
        self.memory, self._schedule = Memory(), os.open("/proc/self/schedstat", os.O_RDONLY)
        self.seconds, self.grown = 0.0, 0

    def check(self, data: bytes) -> str:
        """How the reading ended, in a word. Raises ``Finding``."""
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG)  # of computing: pytest's own alarm counts another time
        try:
            try:
                adapter, outcome = self._read(data)
                self._judge(data)
                return self._round_trip(adapter) if adapter else outcome
            except Finding:
                raise
            except Exception as error:  # of whatever class: it is what is looked for
                raise Finding(f"{type(error).__name__}: {error!s:.200}") from error
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _read(self, data):
        given = _given(data)
        self.memory.start(len(data))
        begin = self._clock()
        try:
            return self.read(given), ""
        except UniLoraError as refusal:
            if not refusal.rule or len(str(refusal)) > MOST_TEXT:
                raise Finding(f"a refusal without a rule, or of {len(str(refusal))} characters") from refusal
            return None, refusal.rule
        finally:
            self.seconds = self._clock() - begin
            self.grown = self.memory.grown()

    def _clock(self) -> float:
        """Seconds, without those in which this process stood in line for a core."""
        return time.perf_counter() - int(os.pread(self._schedule, 100, 0).split()[1]) / 1e9

    def _judge(self, data):
        times, plus = MOST_MEMORY
        most = times * len(data) + plus
        if self.grown > most / 2:
            self.grown = self._traced(data)
        if self.grown > most:
            raise Finding(f"the reading of {len(data)} bytes took {self.grown / 2**20:.1f} MiB of memory")
        grown = self.grown
        for _ in range(2):  # what the machine does beside makes a reading slower as well
            if self.seconds > MOST_SECONDS:
                first = self.seconds
                self._read(data)
                self.seconds = min(first, self.seconds)
        self.grown = grown
        if self.seconds > MOST_SECONDS:
            raise Finding(f"the reading took {self.seconds:.1f} seconds; {MOST_SECONDS:g} is the most")

    def _traced(self, data) -> int:
        given = _given(data)
        tracemalloc.start()
        try:
            self.read(given)
        except UniLoraError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    @staticmethod
    def _round_trip(adapter) -> str:
        try:
            data = encode(adapter)
        except FileError as refusal:
            if refusal.rule == "8.2" and "is the limit" in refusal.message:
                return "accepted, no canonical form"
            raise Finding(f"what was accepted cannot be written: {refusal}") from refusal
        again = decode(data)
        try:
            test_file.same(adapter, again)
        except AssertionError:
            raise Finding("what was accepted reads back as another adapter") from None
        if encode(again) != data:
            raise Finding("the canonical bytes are not those of what they read as")
        return "accepted"


def _given(data):
    """A file on disk comes as an array of bytes; half of the inputs come so too."""
    return np.frombuffer(data, np.uint8) if len(data) % 2 else data


def _hang(number, frame):
    raise Finding(f"no end after {HANG} seconds of computing")


def check_range(seed: int, start: int, stop: int) -> Result:
    """The inputs start … stop − 1 of a seed, in a process that keeps its corpus."""
    global _kept
    if _kept is None or _kept[0].seed != seed:
        corpus = Corpus(seed)
        gc.collect()
        gc.freeze()  # the corpus is no garbage; the collector need not look at it over and over
        _kept = corpus, Checker()
    corpus, checker = _kept
    result = Result(stop - start)
    for i in range(start, stop):
        data = corpus[i]
        try:
            result.outcomes[checker.check(data)] += 1
        except Finding as finding:
            result.outcomes["finding"] += 1
            result.findings.append((i, str(finding)))
        result.slowest = max(result.slowest, (checker.seconds, i))
        result.largest = max(result.largest, (checker.grown, i))
    return result


# The command


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="how many inputs (100000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs (0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so many, whatever is left")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (one a core)")
    parser.add_argument("--file", type=Path, help="check this one file instead, and say how it ends")
    options = parser.parse_args(arguments)
    console = Console()
    if options.file:
        checker = Checker()
        try:
            console.print(f"{options.file}: {checker.check(options.file.read_bytes())}", markup=False, soft_wrap=True)
        except Finding as finding:
            console.print(f"{options.file}: {finding}", markup=False, soft_wrap=True)
            return 1
        finally:
            print(f"{checker.seconds:.3f} s, {checker.grown / 2**20:.1f} MiB")
        return 0
    begin = time.monotonic()
    total = _run(options, begin, console)
    _report(total, options.seed, time.monotonic() - begin, console)
    return 1 if total.findings else 0


def _run(options, begin, console) -> Result:
    ranges = ((options.seed, i, min(i + BLOCK, options.inputs)) for i in range(0, options.inputs, BLOCK))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    total = Result()
    # Processes that are started anew: what this one holds would count as their memory. The work is handed out bit by bit.
    with (
        multiprocessing.get_context("spawn").Pool(options.jobs) as pool,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("inputs", total=options.inputs)
        for result in pool.imap_unordered(_check_range, ranges):
            total.add(result)
            progress.update(task, completed=total.inputs, description=f"inputs, {len(total.findings)} findings")
            if time.monotonic() - begin > options.seconds:
                break
    return total


def _check_range(bounds):
    return check_range(*bounds)


def _report(total, seed, seconds, console):
    table = Table("how it ended", "inputs", title_justify="left")
    for outcome, count in sorted(total.outcomes.items()):
        table.add_row(outcome if not outcome[:1].isdigit() else f"refused by {outcome}", f"{count:,}")
    console.print(table)
    for i, finding in sorted(total.findings)[:20]:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"input-{seed}-{i}"
        path.write_bytes(Corpus(seed)[i])
        console.print(
            f"input {i}: {finding}. It is {path}; mend the reader, add the case to tests/test_file_sound.py and run"
            f" python tests/fuzz_reader.py --file {path}",
            markup=False,
            soft_wrap=True,
        )
    accepted = sum(count for outcome, count in total.outcomes.items() if outcome.startswith("accepted"))
    print(
        f"{total.inputs:,} inputs of seed {seed} in {seconds:.0f} s ({total.inputs / seconds:,.0f} a second):"
        f" {accepted:,} accepted, {total.inputs - accepted - len(total.findings):,} refused,"
        f" {len(total.findings)} findings; slowest {total.slowest[0]:.3f} s (input {total.slowest[1]}),"
        f" most memory {total.largest[0] / 2**20:.1f} MiB (input {total.largest[1]})"
    )


if __name__ == "__main__":
    sys.exit(main())
