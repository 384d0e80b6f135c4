"""Small faults set into a module, each looked for by the tests of that module: which of them does nobody find?

    make mutants        or, of one module:  make mutants MODULE=export/graph/paths.py

The faults are mutmut's, and two of our own: a call that is left out, a condition turned round. mutants.toml names the modules, the tests that
judge each, and the faults that change nothing which a test could ask for, with the reason. What is said in refusals is left as it is: tests
ask for its words, and not for all of them.

Every fault is tried in a copy of this process, which has imported what is not ours: the module is imported with the fault in it, and the tests
that come by its line run until one fails. Linux and macOS: it forks.
"""

import argparse
import contextlib
import difflib
import gc
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import NamedTuple

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

PYTEST = [
    "-q",
    "-x",
    "--no-header",
    "--tb=no",
    "--durations=0",
    "-pno:cacheprovider",
    "-pno:timeout",
    "-pno:xdist",
    "-Wignore",
]
OUTCOMES = ("killed", "timed out", "equivalent", "survived", "not reached")
MEMORY = 40 * 2**30  # bytes of addresses: a fault may ask for a tensor of any size


class Mutant(NamedTuple):
    """A fault: the module's ``code`` with it, and the lines first … last of the statement that it is in."""

    code: str
    first: int
    last: int


# Faults


class _Faults(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self):
        self.found, self.statements = [], []

    def on_visit(self, node) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Raise | cst.Import | cst.ImportFrom) or _is_warning(
            node
        ):
            return False
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            self.statements.append(node)
        if self.statements:
            statement = self.statements[-1]
            place = self.get_metadata(PositionProvider, statement)
            end = getattr(statement, "body", None)
            last = (
                self.get_metadata(PositionProvider, end).start.line
                if isinstance(end, cst.IndentedBlock)
                else place.end.line
            )
            changed = [new for kind, operator in mutation_operators if isinstance(node, kind) for new in operator(node)]
            self.found += [(node, new, place.start.line, last) for new in [*changed, *_own(node)]]
        return True

    def on_leave(self, node):
        if self.statements and self.statements[-1] is node:
            self.statements.pop()


def _is_warning(node):
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "warn"


def _own(node):
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield cst.Pass()
    if isinstance(node, cst.If | cst.While) and not isinstance(node.test, cst.Comparison | cst.BooleanOperation):
        turned = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), turned))


def mutants_of(source: str, sample: int | None, seed: int) -> tuple[Iterator[Mutant], int]:
    """The faults of a module, each made when it is asked for, or as many of them by chance; and how many there are."""
    wrapper, faults = MetadataWrapper(cst.parse_module(source)), _Faults()
    wrapper.visit(faults)
    places = range(len(faults.found))
    chosen = sorted(random.Random(seed).sample(places, min(sample, len(places)))) if sample else places

    def made():
        seen = {source}
        for old, new, first, last in (faults.found[place] for place in chosen):
            code = wrapper.module.deep_replace(old, new).code
            with contextlib.suppress(SyntaxError):
                compile(code, "", "exec")
                if code not in seen:
                    seen.add(code)
                    yield Mutant(code, first, last)

    return made(), len(places)


def difference(source: str, code: str) -> str:
    """The lines that differ, as ``old → new``."""
    lines = list(difflib.unified_diff(source.splitlines(), code.splitlines(), lineterm="", n=0))[3:]
    old, new = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return f"{old} → {new}"


# Copies of this process


def in_copy(work, seconds: float, folder: Path):
    """What ``work()`` returns in a copy of this process, or how the copy ended: "timed out" or "died"."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    gc.freeze()
    child = os.fork()
    if child == 0:
        os.setsid()
        with (folder / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            answer.write_text(json.dumps(work()))
        finally:
            os._exit(0)  # without what the end of a process does
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
        time.sleep(0.02)
    try:
        os.killpg(child, signal.SIGKILL)  # with what it has started
    except ProcessLookupError:
        pass
    if not ended:
        os.waitpid(child, 0)
        return "timed out"
    return json.loads(answer.read_text()) if answer.exists() else "died"


class _Reached:
    """Which tests come by which lines of the modules, and how long each takes."""

    def __init__(self, modules: list[str]):
        self.paths = {module: str(Path(module).resolve()) for module in modules}
        self.coverage = coverage.Coverage(data_file=None, include=list(self.paths.values()), config_file=False)
        self.seconds, self.failed = Counter(), []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        yield
        self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def run(self, tests: list[str], left_out: str) -> dict:
        self.coverage.start()
        pytest.main([*PYTEST, "-mnot slow", f"-knot ({left_out})", *tests], plugins=[self])
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {module: data.contexts_by_lineno(path) for module, path in self.paths.items()}
        imported = [name for name, module in sys.modules.items() if not _is_ours(module)]
        return {"lines": lines, "seconds": self.seconds, "failed": self.failed, "imported": imported}


def _is_ours(module):
    """Whether a module, or what it imports, may have the fault."""
    path = Path(getattr(module, "__file__", None) or "/").resolve()
    return path.is_relative_to(Path.cwd()) and not path.is_relative_to(Path("unilora_spec").resolve())


def _with(path: Path, code: str, tests):
    def get_code(loader, name, own=SourceFileLoader.get_code):
        return compile(code, str(path), "exec") if loader.path == str(path) else own(loader, name)

    SourceFileLoader.get_code = get_code
    return int(pytest.main([*PYTEST, *tests]))


# Modules


def judged_by(modules: dict[str, list[str]], left_out: str, folder: Path) -> dict:
    """What ``_Reached`` finds without a fault; this process then has imported what is not ours."""
    tests = list(dict.fromkeys(itertools.chain(*modules.values(), modules)))
    found = in_copy(lambda: _Reached(list(modules)).run(tests, left_out), 1800, folder)
    if not isinstance(found, dict) or found["failed"]:
        sys.exit(f"without a fault, the tests end as {folder}/output.txt says")
    for name in found["imported"]:
        with contextlib.suppress(Exception):  # what cannot be imported by itself each copy imports for itself
            import_module(name)
    return found


def try_module(module: str, tests: list[str], judged: dict, sample: int | None, seed: int, folder: Path):
    """Of each fault that is tried: how the text differs, its line, what came of it, and how many faults the module has."""
    path, places = Path(module).resolve(), {test: number for number, test in enumerate([*tests, module])}
    seconds, by_line = judged["seconds"], defaultdict(set)
    for line, contexts in judged["lines"][module].items():
        by_line[int(line)].update(contexts)
    own = [test for test in seconds if test.split("::")[0] in places]
    own.sort(key=lambda test: (places[test.split("::")[0]], seconds[test]))
    source = path.read_text()

    def outcome(code, chosen):
        ended = in_copy(lambda: _with(path, code, chosen), 60 + 10 * sum(seconds[test] for test in chosen), folder)
        return {0: "survived", "timed out": ended}.get(ended, "killed")

    if outcome(source, own) != "survived":
        sys.exit(f"without a fault, the tests of {module} end as {folder}/output.txt says")
    mutants, total = mutants_of(source, sample, seed)
    for mutant in mutants:
        reached = set().union(*(by_line[line] for line in range(mutant.first, mutant.last + 1)))
        chosen = [test for test in own if test in reached or "" in reached]
        came = outcome(mutant.code, chosen) if chosen else "not reached"
        yield difference(source, mutant.code), mutant.first, came, total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", help="this one alone")
    parser.add_argument("--sample", type=int, help="as many faults of each module, by chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/mutants"))
    arguments = parser.parse_args()
    told = tomllib.loads(Path("tests/mutants.toml").read_text())
    reasons = {(each["module"], each["change"]): each["reason"] for each in told["equivalent"]}
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, left = [], []
    modules = {
        module: tests for module, tests in told["modules"].items() if module in (arguments.module or told["modules"])
    }
    judged = judged_by(modules, told["left_out"], arguments.out)
    for module, tests in modules.items():
        outcomes = Counter()
        tries = try_module(module, tests, judged, arguments.sample, arguments.seed, arguments.out)
        for change, line, outcome, of in tries:
            if outcome in ("survived", "not reached"):
                reason = reasons.get((module, change))
                outcome = "equivalent" if reason else outcome
                left.append(f"- `{module}:{line}` {outcome}{f' ({reason})' if reason else ''}: `{change}`")
                print(left[-1], flush=True)
            outcomes[outcome] += 1
            print(f"{module} {dict(outcomes)}", end="\r", flush=True)
        columns = [outcomes.total(), *(outcomes[each] for each in OUTCOMES), of]
        rows.append(f"| {module} | {' | '.join(map(str, columns))} |")
        print(rows[-1], flush=True)
    table = [f"| module | tried | {' | '.join(OUTCOMES)} | in all |", "|---" * 8 + "|", *rows]
    (arguments.out / "mutants.md").write_text("\n".join([*table, "", *left, ""]))
    print("\n".join(table))
    sys.exit(any(" equivalent " not in line for line in left))


if __name__ == "__main__":
    main()
