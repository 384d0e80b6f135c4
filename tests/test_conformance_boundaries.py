"""The inputs of conformance_tests/boundaries: complete where SPEC.md has a table, on both sides of each limit, and right by the reference."""

import json
import re

import pytest

from conformance_tests.boundaries import LINES, WITHOUT
from conformance_tests.judge import Judge
from conformance_tests.rules import spec_rules
from unilora_spec import conformance


def expressions():
    """The first column of SPEC 1.4's table."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", spec_rules()["1.4"], re.MULTILINE)
    return [row for row in rows[1:] if not row.startswith("-")]


def test_every_row_of_the_table_of_products_and_sums_has_inputs():
    """Matched by its text, so that a new row asks for its inputs, and a changed one for a second look."""
    assert len(expressions()) > 20
    asked = [expression for line in LINES for expression in line.of]
    assert set(asked) == set(expressions())


def test_every_rule_has_a_line_or_a_reason():
    """A rule that compares nothing, or is asked elsewhere, says so in ``WITHOUT``."""
    with_lines = {rule for line in LINES for rule in line.rules}
    assert with_lines | set(WITHOUT) == set(spec_rules()) and not with_lines & set(WITHOUT)


def test_lines_have_names_of_their_own():
    assert len({line.name for line in LINES}) == len(LINES) > 150


class Asked:
    """The reference without a process."""

    def ask(self, request, **fields):
        return json.loads(json.dumps(conformance.answer(json.loads(json.dumps({"request": request, **fields})))))

    def fail(self, failure):
        raise failure


@pytest.mark.parametrize("chapter", range(1, 12))
def test_inputs(chapter):
    """The reference answers each as it must, and each limit has inputs on both sides."""
    judge = Judge(Asked())
    for line in LINES:
        if line.rules[0].split(".")[0] == str(chapter):
            inputs = list(line.inputs())
            for each in inputs:
                if each.refused:
                    assert each.refused <= set(spec_rules()), each.name
                    judge.refuses(set(each.refused), line.asks, **each.fields)
                else:
                    judge.gives(each.answer, line.asks, **each.fields)
            assert {bool(each.refused) for each in inputs} == {True, False} or not line.limit, line.name
            assert len({each.name for each in inputs}) == len(inputs), line.name
