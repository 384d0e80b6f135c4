"""What SPEC.md compares, adds, multiplies, sorts and limits, chapter by chapter: the inputs of conformance_tests/boundaries."""

import pytest

from conformance_tests.boundaries import LINES
from conformance_tests.rules import check


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=check(*line.rules, needs=line.asks, drawn=False), id=line.name) for line in LINES]
)
def test_boundary(judge, line):
    """Inputs on each side of what a rule compares, and where a narrower number goes wrong."""
    if line.kind:
        judge.needs_kind(line.kind)

    def ask(each):
        if each.refused:
            judge.refuses(set(each.refused), line.asks, **each.fields)
        else:
            judge.gives(each.answer, line.asks, **each.fields)

    judge.each(line.inputs(), ask, lambda each: f"{each.name} ({line.why.rstrip('.')})")
