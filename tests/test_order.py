"""The order of rows: known numbers, which any language can be tested with, and the contract once more in plain Python."""

import pytest

from backends.rows.order import of_like_length
from conformance_tests.oracle.arithmetic import walk

LENGTHS = [(7 * row) % 13 for row in range(23)]
KNOWN = {
    (5, 0): [7, 18, 5, 16, 11, 9, 22, 20, 10, 21, 8, 19, 3, 1, 14, 12, 6, 4, 17, 2, 15, 13, 0],
    (5, 1): [16, 14, 1, 12, 10, 8, 21, 19, 7, 18, 5, 3, 6, 4, 17, 2, 11, 22, 9, 20, 15, 13, 0],
}


@pytest.mark.parametrize("seed, epoch", KNOWN)
def test_known_orders(seed, epoch):
    assert of_like_length(LENGTHS, 4, seed, epoch) == KNOWN[seed, epoch]


@pytest.mark.parametrize(
    "count", [0, 1, 3, 4, 23, 450]
)  # none, less than a batch, one batch, and more than one run of 50 batches
@pytest.mark.parametrize("seed, epoch", [(0, 0), (7, 3), (2**64 - 1, 2)])
def test_the_order_is_that_of_plain_python(count, seed, epoch):
    lengths, batch, key = [(7 * row) % 13 for row in range(count)], 4, (seed + epoch) % 2**64
    shuffled = [list(walk(count, key, row))[-1] for row in range(count)]
    rows = []
    for start in range(0, count, 50 * batch):
        rows += sorted(shuffled[start : start + 50 * batch], key=lambda row: -lengths[row])
    full = count // batch
    order = [list(walk(full, key, number))[-1] for number in range(full)]
    expected = [row for number in order for row in rows[batch * number :][:batch]] + rows[batch * full :]
    assert of_like_length(lengths, batch, seed, epoch) == expected
