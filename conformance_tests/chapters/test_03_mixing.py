"""SPEC chapter 3: the mixing function."""

from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.oracle import arithmetic
from conformance_tests.rules import check
from conformance_tests.strategies import words


@check("3.1", "3.2", needs="mix")
@given(st.lists(words, max_size=20), words)
def test_mix(judge, xs, key):
    """mix(x, k), on unsigned 32-bit numbers with logical shifts."""
    judge.gives({"mixed": [arithmetic.mix(x, key) for x in xs]}, "mix", words=xs, key=key)
