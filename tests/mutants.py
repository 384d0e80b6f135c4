"""Small faults set into a module, each looked for by the tests of that module: which of them does nobody find?

    make mutants        or, of one module:  make mutants MODULE=export/graph/paths.py

The faults are mutmut's, and two of our own: a call that is left out, a condition turned round. mutants.toml names the modules, the tests that
judge each, and the faults that change nothing which a test could ask for. Refusals and warnings are left as they are. Each fault is tried in
a fork of this process, which has imported what is not ours: there the tests that come by its line run with it until one fails.
"""

import argparse
import contextlib
import difflib
import gc
import json
import os
import random
import signal
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path

import coverage
import libcst as cst
import libcst.matchers as m
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

OUT = Path("build/mutants")
# Plain assertions, as pytest has a loader of its own, without the fault, for a module whose doctest it runs with others.
PYTEST = ["-q", "-x", "--tb=short", "--assert=plain", "-pno:cacheprovider", "-pno:timeout", "-pno:xdist", "-Wignore"]
OUTCOMES = ("killed", "timed out", "equivalent", "survived", "not reached")


def _faults(node, places, lines=None) -> Iterator[tuple]:
    """What may be changed: (node, its replacement, the lines of its statement, without those of the statements in it)."""
    is_warning = m.matches(node, m.Call(func=m.Attribute(attr=m.Name("warn"))))
    if is_warning or isinstance(node, cst.Annotation | cst.Decorator | cst.Raise | cst.Import | cst.ImportFrom):
        return
    if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
        block = isinstance(getattr(node, "body", None), cst.IndentedBlock)
        lines = range(places[node].start.line, (places[node.body].start if block else places[node].end).line + 1)
    if lines:
        yield from (
            (node, new, lines) for of, change in mutation_operators if isinstance(node, of) for new in change(node)
        )
        if m.matches(node, m.Expr(value=m.Call())):
            yield node, cst.Pass(), lines
        if m.matches(node, m.If(test=~(m.Comparison() | m.BooleanOperation()))):
            within = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            yield node, node.with_changes(test=cst.UnaryOperation(cst.Not(), within)), lines
    for child in node.children:
        yield from _faults(child, places, lines)


def mutants_of(source: str, sample: int | None, seed: int) -> Iterator[tuple[str, range]]:
    """A module's text with one fault, and the lines of its statement: with every fault that is Python, or with so many by chance."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    found = list(_faults(wrapper.module, wrapper.resolve(PositionProvider)))
    chosen = sorted(random.Random(seed).sample(range(len(found)), min(sample or len(found), len(found))))
    for old, new, lines in map(found.__getitem__, chosen):
        code = wrapper.module.deep_replace(old, new).code
        with contextlib.suppress(SyntaxError):
            compile(code, "", "exec")
            if code != source:
                yield code, lines


def difference(source: str, code: str) -> str:
    """The lines that differ, as ``old → new``."""
    lines = list(difflib.unified_diff(source.splitlines(), code.splitlines(), lineterm="", n=0))[3:]
    return " → ".join(" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")


def in_copy(work, seconds: float):
    """What ``work()`` returns in a copy of this process, or None where it does not within so many seconds."""
    answer = OUT / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(int(seconds))
        with (OUT / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        try:
            answer.write_text(json.dumps(work()))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it has started
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
    path, *others = (Path(p).resolve() for p in (getattr(module, "__file__", None) or "/", "unilora_spec", sys.prefix))
    return path.is_relative_to(Path.cwd()) and not any(path.is_relative_to(other) for other in others)


def _status(path: Path, code: str, tests: list[str]) -> int:
    """How the tests end where the module at ``path`` has this text."""

    def get_code(loader, name, own=SourceFileLoader.get_code):
        return compile(code, str(path), "exec") if loader.path == str(path) else own(loader, name)

    SourceFileLoader.get_code = get_code
    return int(pytest.main([*PYTEST, *tests]))


def tried(module: str, tests: list[str], judged: dict, options) -> Iterator[tuple[str, int, str]]:
    """Of each fault how the text differs, its line, and what came of it."""
    path, seconds, source = Path(module).resolve(), judged["seconds"], Path(module).read_text()
    fast = sorted(seconds, key=seconds.get)
    own = dict.fromkeys(test for of in [*tests, module] for test in fast if test.startswith(of))
    lines = {int(line): set(contexts) for line, contexts in judged["lines"][module].items()}
    if in_copy(partial(_status, path, source, ["--collect-only", *own]), 600) != 0:
        sys.exit(f"the tests of {module} are not found again, as {OUT}/output.txt says")
    for code, statement in mutants_of(source, options.sample, options.seed):
        reached = set().union(*(lines.get(line, ()) for line in statement))
        # Nobody is seen where torch.compile reads a line without running it.
        chosen = [test for test in own if test in reached or "" in reached or (not reached and "compiled" in test)]
        outcome = "survived" if chosen else "not reached"
        for part in filter(None, (chosen[::8], chosen)):  # an eighth of them finds most faults
            status = in_copy(partial(_status, path, code, part), 60 + 10 * sum(seconds[test] for test in part))
            if status != 0:
                outcome = "timed out" if status is None else "killed"
                break
        yield difference(source, code), statement[0], outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", help="this one alone")
    parser.add_argument("--sample", type=int, help="so many faults of each module, by chance")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    told = tomllib.loads(Path("tests/mutants.toml").read_text())
    modules = {module: told["modules"][module] for module in options.module or told["modules"]}
    reasons = {(each["module"], each["change"]): each["reason"] for each in told["equivalent"]}
    OUT.mkdir(parents=True, exist_ok=True)
    tests = dict.fromkeys([*(test for each in modules.values() for test in each), *modules])
    judged = in_copy(lambda: _Reached(modules).run(tests, told["left_out"]), 3600)
    if judged is None:
        sys.exit(f"without a fault, the tests end as {OUT}/output.txt says")
    for name in judged["theirs"]:
        with contextlib.suppress(Exception):  # what cannot be imported by itself each copy imports for itself
            import_module(name)
    gc.freeze()  # else each copy writes to all memory to look for what is unused
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
        table.append(f"| {module} | {outcomes.total()} | {' | '.join(str(outcomes[each]) for each in OUTCOMES)} |")
    (OUT / "mutants.md").write_text("\n".join([*table, "", *left, ""]))
    print("", *table, sep="\n")
    sys.exit(any(not line.startswith("- equivalent") for line in left))


if __name__ == "__main__":
    main()
