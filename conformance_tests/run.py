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

from .client import Failed, GaveUp, Implementation, NotSupported
from .judge import Judge

CHAPTERS = Path(__file__).parent / "chapters"
EXAMPLES = 50  # of each property, if not told otherwise; all of the faults of faults.py are found with as many
OUTCOMES = PASSED, FAILED, NOT_SUPPORTED = "passed", "failed", "not supported"


@dataclass
class Result:
    """What came out of one check: ``outcome``, and for a failure its sentence and the smallest request that shows it."""

    name: str
    rules: tuple[str, ...]
    needs: tuple[str, ...]
    says: str
    outcome: str = PASSED
    message: str = ""
    request: dict | None = None


@dataclass
class Run:
    """One run over the chapters, a pytest plugin. ``results`` are those of the checks, in the order of SPEC.md."""

    implementation: Implementation
    progress: object = None
    results: list[Result] = field(default_factory=list)
    broken: str = ""

    def pytest_collectreport(self, report):
        if report.failed:
            self.broken += report.longreprtext

    @pytest.fixture
    def judge(self, request):
        """The implementation, for one check."""
        missing = set(request.node.get_closest_marker("check").kwargs["needs"]) - set(self.implementation.requests)
        if missing:
            raise NotSupported(", ".join(sorted(missing)))
        self.implementation.new_check()
        return Judge(self.implementation)

    def pytest_collection_finish(self, session):
        if self.progress:
            self.task = self.progress.add_task("checks", total=len(session.items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.when == "setup" and report.outcome == "passed" or report.when == "teardown":
            return report
        mark = item.get_closest_marker("check").kwargs
        says = " ".join(item.function.__doc__.split())
        name = item.nodeid.partition("::")[2].removeprefix("test_")
        result = Result(name, mark["rules"], mark["needs"], says)
        if call.excinfo is not None:
            self._judge_exception(result, call.excinfo.value, report)
        self.results.append(result)
        if self.progress:
            self.progress.advance(self.task)
        return report

    def _judge_exception(self, result, error, report):
        if isinstance(error, NotSupported):
            result.outcome, result.message = NOT_SUPPORTED, f"needs {error}"
            report.outcome, report.longrepr = "skipped", ("", 0, result.message)
            return
        result.outcome = FAILED
        if isinstance(error, Flaky):
            error = self.implementation.smallest
            error.message = f"not the same at each time of asking: {error.message}"
        if isinstance(error, GaveUp):
            error = error.failure
        if isinstance(error, Failed):
            result.message, result.request = error.message, error.request
            report.longrepr = f"{result.message}\n{json.dumps(result.request, ensure_ascii=False)}"
        else:
            result.message = f"the check itself failed: {type(error).__name__}: {error}"


def run(implementation, examples, seed, only=(), junit=None, progress=None, first=False) -> list[Result]:
    """The results of all checks, or of those for the rules ``only``. Raises ``WorkFailed`` where none could be run.

    ``examples`` a property, from ``seed``; ``junit`` the path of an XML file; ``first``: stop at the first failure.
    """
    hypothesis.settings.register_profile(
        "conformance",
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,  # as Hypothesis does by itself where the environment says CI: the seed would not count
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    hypothesis.settings.load_profile("conformance")
    plugin = Run(implementation, progress)
    options = [str(CHAPTERS), "-c", str(CHAPTERS / "pytest.ini"), "-p", "no:terminal", "-p", "no:cacheprovider"]
    options += ["-p", "_hypothesis_pytestplugin"]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}  # whatever else is installed or set
    options += [f"--hypothesis-seed={seed}", *([f"--junitxml={junit}"] if junit else []), *(["-x"] if first else [])]
    with contextlib.closing(implementation), mock.patch.dict(os.environ, alone):
        status = pytest.main(options, plugins=[plugin, _Only(set(only))])
    if status == pytest.ExitCode.INTERRUPTED and not plugin.broken:
        raise KeyboardInterrupt
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise WorkFailed(f"the checks could not be run: {plugin.broken or status}")
    return plugin.results


@dataclass
class _Only:
    rules: set[str]

    def pytest_collection_modifyitems(self, items):
        if self.rules:
            items[:] = [item for item in items if self.rules & set(item.get_closest_marker("check").kwargs["rules"])]
