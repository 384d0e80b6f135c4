"""Runs the chapters with pytest and Hypothesis against one implementation, and keeps what came out."""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import hypothesis
import pytest
from hypothesis.errors import Flaky

from unilora_spec.errors import WorkFailed

from .answers import shown
from .client import Failed, GaveUp, Implementation, NotAsked, NotSupported, as_line
from .judge import Judge
from .rules import Selection

CHAPTERS = Path(__file__).parent / "chapters"
EXAMPLES = 40  # examples of each property by default; the faults of faults/ are looked for with as many
OUTCOMES = PASSED, FAILED, NOT_SUPPORTED, UNASKED = "passed", "failed", "not supported", "not asked"
ALL = Selection()


@dataclass
class Way:
    """One way in which a check fails: a sentence, the smallest request that shows it, and what was answered, shortened.

    ``kept`` is the file that has the request (failed_requests.py).
    """

    message: str
    request: dict
    answer: str | None = None
    kept: str | None = None


@dataclass
class Result:
    """What came out of one check: ``outcome``, and for a failure the ways in which it fails.

    ``message`` and ``request`` are those of the smallest request; ``further`` ways are counted alone.
    """

    name: str
    rules: tuple[str, ...]
    needs: tuple[str, ...]
    says: str
    outcome: str = PASSED
    message: str = ""
    request: dict | None = None
    ways: list[Way] = field(default_factory=list)
    further: int = 0


def result_of(item) -> Result:
    """A check that pytest has collected, before it runs."""
    mark = item.get_closest_marker("check").kwargs
    name = item.nodeid.partition("::")[2].removeprefix("test_")
    return Result(name, mark["rules"], mark["needs"], " ".join(item.function.__doc__.split()))


@dataclass
class _Selected:
    """A plugin that keeps only the checks of ``selection``."""

    selection: Selection
    items: list = field(default_factory=list)

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if self.selection.takes(**item.get_closest_marker("check").kwargs)]
        self.items = list(items)


@dataclass
class _Run:
    """A plugin that gives the checks an implementation to ask. ``results`` has their results, in the order of SPEC.md."""

    implementation: Implementation
    progress: object = None
    results: list[Result] = field(default_factory=list)

    @pytest.fixture
    def judge(self, request):
        """The implementation, for one check."""
        self.implementation.new_check()
        missing = set(request.node.get_closest_marker("check").kwargs["needs"]) - set(self.implementation.requests)
        if missing:
            raise NotSupported(", ".join(sorted(missing)))
        return Judge(self.implementation)

    def pytest_collection_finish(self, session):
        if self.progress:
            self.task = self.progress.add_task("checks", total=len(session.items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.when == "setup" and report.outcome == "passed" or report.when == "teardown":
            return report
        result = result_of(item)
        if call.excinfo is not None:
            self._judge_exception(result, call.excinfo.value)
            if result.outcome == FAILED:
                report.longrepr = "\n".join([result.message, shown(json.dumps(result.request), 10_000)])
            else:
                report.outcome, report.longrepr = "skipped", ("", 0, result.message)
        self.results.append(result)
        if self.progress:
            self.progress.advance(self.task)
        return report

    def _judge_exception(self, result, error):
        if isinstance(error, NotSupported):
            result.outcome, result.message = NOT_SUPPORTED, f"needs {error}"
        elif isinstance(error, NotAsked):
            result.outcome, result.message = UNASKED, error.failure.message
        else:
            result.outcome = FAILED
            self._describe_ways(result, error)

    def _describe_ways(self, result, error):
        ours = isinstance(error, Failed | GaveUp | Flaky | BaseExceptionGroup)
        failures = sorted(self.implementation.ways.values(), key=lambda failure: len(as_line(failure.request)))
        if not ours or not failures:
            result.message = f"the check itself failed: {type(error).__name__}: {shown(str(error))}"
            return
        again = "not the same at each time of asking: " if isinstance(error, Flaky) else ""
        for failure in failures:
            answer = None if failure.answer is None else shown(json.dumps(failure.answer, ensure_ascii=False))
            result.ways.append(Way(again + failure.message, failure.request, answer))
        result.message, result.request = result.ways[0].message, result.ways[0].request
        result.further = len(self.implementation.further)


def checks(selection: Selection = ALL) -> list[Result]:
    """The checks that a run would make, without making them."""
    return [result_of(item) for item in _collected(selection, [], ["--collect-only"])]


def run(
    implementation, examples, seed, selection: Selection = ALL, junit=None, progress=None, first=False
) -> list[Result]:
    """The results of the checks of ``selection``. Raises ``WorkFailed`` where they could not be run.

    ``examples`` a property, from ``seed``; ``junit`` the path of an XML file; ``first``: stop at the first failure.
    """
    hypothesis.settings.register_profile(
        "conformance",
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,  # as Hypothesis does by itself where the environment says CI: the seed would not count
        report_multiple_bugs=not first,  # after the first failure it goes on for as long as it took to come there
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    hypothesis.settings.load_profile("conformance")
    plugin = _Run(implementation, progress)
    implementation.first = first
    options = [f"--hypothesis-seed={seed}", *([f"--junitxml={junit}"] if junit else []), *(["-x"] if first else [])]
    with contextlib.closing(implementation):
        _collected(selection, [plugin], options)
    return plugin.results


def _collected(selection, plugins, options):
    """Calls pytest on the chapters, and returns the items that it has collected."""
    always = [str(CHAPTERS), "-c", str(CHAPTERS / "pytest.ini"), "-p", "no:terminal", "-p", "no:cacheprovider"]
    always += ["-p", "_hypothesis_pytestplugin", "--assert=plain"]
    always += ["-p", "no:unraisableexception", "-p", "no:threadexception"]  # which collect garbage for half a second
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}  # whatever else is installed or set
    chosen, faults = _Selected(selection), _Faults()
    with mock.patch.dict(os.environ, alone):
        status = pytest.main(always + options, plugins=[*plugins, chosen, faults])
    if status == pytest.ExitCode.INTERRUPTED and not faults.text:
        raise KeyboardInterrupt
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise WorkFailed(f"the checks could not be run: {faults.text or status!r}")
    return chosen.items


@dataclass
class _Faults:
    """A plugin that keeps why the chapters could not be imported, or what went wrong in pytest."""

    text: str = ""

    def pytest_collectreport(self, report):
        if report.failed:
            self.text += report.longreprtext

    def pytest_internalerror(self, excrepr):
        self.text += str(excrepr)
