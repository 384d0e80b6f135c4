"""Small faults set into a module, each looked for by the tests of that module: which of them does nobody find?

    make mutants        or, of one module:  make mutants MODULE=export/graph/paths.py

The faults are mutmut's, and two of our own: a call that is left out, a condition turned round. mutants.toml names the modules, the tests
that judge each, and the faults that change nothing which a test could ask for, with the reason. What is said in refusals and warnings is
left as it is: tests ask for its words, and not for all of them.

Every fault is tried in a copy of this process, which has imported what is not ours: there the module is imported with the fault in it, and
the tests that come by its line run until one fails. Linux and macOS: it forks.
"""

import argparse
import contextlib
import difflib
import json
import os
import random
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

PYTEST = ["-q", "-x", "--tb=short", "--durations=0", "-pno:cacheprovider", "-pno:timeout", "-pno:xdist", "-Wignore"]
OUTCOMES = ("killed", "timed out", "equivalent", "survived", "not reached")
COMPILED = "compiled"  # in the names of tests of torch.compile: it reads lines without running them, and nobody sees who comes by


class _Faults(cst.CSTVisitor):
    """What may be changed: (node, its replacement, the first line and the last of its statement, without the statements within)."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self):
        self.found, self.statements = [], []

    def on_visit(self, node) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Raise | cst.Import | cst.ImportFrom) or _warns(node):
            return False
        if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            place = self.get_metadata(PositionProvider, node)
            body = self.get_metadata(PositionProvider, node.body, place) if hasattr(node, "test") else place
            within = place.end.line if body is place else body.start.line
            if isinstance(node, cst.FunctionDef | cst.ClassDef):
                within = self.get_metadata(PositionProvider, node.body).start.line
            self.statements.append((node, place.start.line, within))
        if self.statements:
            changed = [new for kind, change in mutation_operators if isinstance(node, kind) for new in change(node)]
            self.found += [(node, new, *self.statements[-1][1:]) for new in [*changed, *_own(node)]]
        return True

    def on_leave(self, node):
        if self.statements and self.statements[-1][0] is node:
            self.statements.pop()


def _warns(node):
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "warn"


def _own(node):
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield cst.Pass()
    if isinstance(node, cst.If) and not isinstance(node.test, cst.Comparison | cst.BooleanOperation):
        within = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), within))


def mutants_of(source: str, sample: int | None, seed: int) -> Iterator[tuple[str, range]]:
    """A module's text with one fault, and the lines of its statement: with every fault that is Python, or with so many by chance."""
    wrapper, faults, seen = MetadataWrapper(cst.parse_module(source)), _Faults(), {source}
    wrapper.visit(faults)
    places = range(len(faults.found))
    for place in sorted(random.Random(seed).sample(places, min(sample, len(places)))) if sample else places:
        old, new, first, last = faults.found[place]
        code = wrapper.module.deep_replace(old, new).code
        with contextlib.suppress(SyntaxError):
            compile(code, "", "exec")
            if code not in seen:
                seen.add(code)
                yield code, range(first, last + 1)


def difference(source: str, code: str) -> str:
    """The lines that differ, as ``old → new``."""
    lines = list(difflib.unified_diff(source.splitlines(), code.splitlines(), lineterm="", n=0))[3:]
    return " → ".join(" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")


def in_copy(work, seconds: float, folder: Path):
    """What ``work()`` returns in a copy of this process, or None where it does not within so many seconds; ``folder`` has what it writes."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        with (folder / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        try:
            answer.write_text(json.dumps(work()))
        finally:
            os._exit(0)
    end, ended = time.monotonic() + seconds, 0
    while not ended and time.monotonic() < end:
        time.sleep(0.02)
        ended, _ = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with what it has started
    if not ended:
        os.waitpid(child, 0)
    return json.loads(answer.read_text()) if answer.exists() else None


class _Reached:
    """Which tests come by which lines of the modules, how long each takes, and which modules of others they import."""

    def __init__(self, modules):
        self.modules, self.seconds = modules, Counter()
        paths = [str(Path(module).resolve()) for module in modules]
        self.coverage = coverage.Coverage(data_file=None, include=paths, config_file=False)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        yield
        self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration

    def run(self, tests, left_out):
        self.coverage.start()
        ended = pytest.main([*PYTEST, "-mnot slow", f"-knot ({left_out})", *tests], plugins=[self])
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {module: data.contexts_by_lineno(str(Path(module).resolve())) for module in self.modules}
        theirs = [name for name, module in sys.modules.items() if not _is_ours(module)]
        return {"lines": lines, "seconds": self.seconds, "theirs": theirs} if ended == 0 else None


def _is_ours(module):
    """Whether a module, or what it imports, may have the fault."""
    path = Path(getattr(module, "__file__", None) or "/").resolve()
    return path.is_relative_to(Path.cwd()) and not path.is_relative_to(Path("unilora_spec").resolve())


def _status(path: Path, code: str, tests: list[str]) -> int:
    """How the tests end where the module at ``path`` has this text."""

    def get_code(loader, name, own=SourceFileLoader.get_code):
        return compile(code, str(path), "exec") if loader.path == str(path) else own(loader, name)

    SourceFileLoader.get_code = get_code
    return int(pytest.main([*PYTEST, *tests]))


def tried(module: str, tests: list[str], judged: dict, options) -> Iterator[tuple[str, int, str]]:
    """Of each fault how the text differs, its line, and what came of it."""
    path, seconds = Path(module).resolve(), judged["seconds"]
    places = {
        test: place for place, of in reversed([*enumerate([*tests, module])]) for test in seconds if test.startswith(of)
    }
    own = sorted(places, key=lambda test: (places[test], seconds[test]))
    lines = {int(line): set(contexts) for line, contexts in judged["lines"][module].items()}
    source = path.read_text()
    if in_copy(lambda: _status(path, source, ["--collect-only", *own]), 600, options.out) != 0:
        sys.exit(f"the tests of {module} are not found again, as {options.out}/output.txt says")
    for code, statement in mutants_of(source, options.sample, options.seed):
        reached = set().union(*(lines.get(line, ()) for line in statement))
        chosen = [test for test in own if test in reached or "" in reached or (not reached and COMPILED in test)]
        limit = 60 + 10 * sum(seconds[test] for test in chosen)
        status = in_copy(lambda: _status(path, code, chosen), limit, options.out) if chosen else 0  # noqa: B023
        outcome = {None: "timed out", 0: "survived" if chosen else "not reached"}.get(status, "killed")
        yield difference(source, code), statement[0], outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", help="this one alone")
    parser.add_argument("--sample", type=int, help="so many faults of each module, by chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/mutants"))
    options = parser.parse_args()
    told = tomllib.loads(Path("tests/mutants.toml").read_text())
    modules = {module: told["modules"][module] for module in options.module or told["modules"]}
    reasons = {(each["module"], each["change"]): each["reason"] for each in told["equivalent"]}
    options.out.mkdir(parents=True, exist_ok=True)
    tests = dict.fromkeys([*(test for each in modules.values() for test in each), *modules])
    judged = in_copy(lambda: _Reached(modules).run(tests, told["left_out"]), 3600, options.out)
    if judged is None:
        sys.exit(f"without a fault, the tests end as {options.out}/output.txt says")
    for name in judged["theirs"]:
        with contextlib.suppress(Exception):  # what cannot be imported by itself each copy imports for itself
            import_module(name)
    table, left = [f"| module | tried | {' | '.join(OUTCOMES)} |", "|---" * (2 + len(OUTCOMES)) + "|"], []
    for module, of_module in modules.items():
        outcomes = Counter()
        for change, line, outcome in tried(module, of_module, judged, options):
            if outcome in ("survived", "not reached"):
                reason = reasons.get((module, change))
                outcome = "equivalent" if reason else outcome
                left.append(f"- {outcome} `{module}:{line}` `{change}` {reason or ''}")
                print(left[-1], flush=True)
            outcomes[outcome] += 1
            print(f"{module} {dict(outcomes)}", end="\r", flush=True)
        table.append(f"| {module} | {' | '.join(str(n) for n in [outcomes.total(), *map(outcomes.get, OUTCOMES)])} |")
        table[-1] = table[-1].replace("None", "0")
    (options.out / "mutants.md").write_text("\n".join([*table, "", *left, ""]))
    print("", *table, sep="\n")
    sys.exit(any(not line.startswith("- equivalent") for line in left))


if __name__ == "__main__":
    main()
