"""SPEC chapter 2: the keys of a seed."""

from hypothesis import given

from conformance_tests.oracle import arithmetic
from conformance_tests.rules import check
from conformance_tests.strategies import seeds


@check("2.1", "2.2", needs="keys")
@given(seeds)
def test_keys(judge, seed):
    """K_0 … K_9 are the high halves of SplitMix64's first ten outputs."""
    judge.gives({"keys": arithmetic.keys(seed)}, "keys", seed=str(seed))
