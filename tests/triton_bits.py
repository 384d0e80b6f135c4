"""The Triton kernels beside the reference, bit by bit. tests/test_triton.py runs this file in processes of its own."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import arrays, projections, seeds
from tests.strategies import examples as of_all
from unilora_spec import LimitError, Projection

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from backends.torch.adapter.theta import triton_kernels as kernels

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

small = projections(["balanced"], 40)  # where many passes follow each other: a² may be twice D
middle = projections(["balanced"], 3000)  # more than one program, with a tail
dtypes = st.sampled_from(list(DTYPES))


def examples(count):
    """Of what a GPU is asked, a third where the interpreter takes a second or so for each."""
    return of_all(count // 3 if INTERPRETED else count)


@st.composite
def slices(draw, p, longest=300):
    length = min(p.D, draw(st.integers(0, longest)))
    start = draw(st.sampled_from([0, p.D - length]) | st.integers(0, p.D - length))
    return start, start + length


@st.composite
def large(draw):
    """D around 2^31, where a signed number ends, 2^32, where the kernels go to 64 bits, and 2^40, the largest."""
    D = min(2 ** draw(st.sampled_from([31, 32, 40])) + draw(st.integers(-2, 2)), 2**40)
    most = min(D, 2**31 - 1)
    return Projection(D=D, d=draw(st.sampled_from([1, most]) | st.integers(1, most)), seed=draw(seeds))


@st.composite
def vectors(draw, length):
    """float[length] of any of the dtypes: some entries drawn, repeated in order."""
    dtype = draw(dtypes)
    values = draw(arrays(DTYPES[dtype], min(length, 12)))
    return for_bfloat16(torch.tensor(np.resize(values, length)).to(dtype), dtype)


def for_bfloat16(vector, dtype):
    """Triton's interpreter, not its compiler, takes denormal bfloat16 for other numbers: 0 for what may become one."""
    return vector.where(vector.abs() >= 2.0**-100, 0) if INTERPRETED and dtype == torch.bfloat16 else vector


def bits(tensor):
    return tensor.cpu().contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32).tolist()


def rounded(values, dtype):
    """float32 rounded to ``dtype``. Triton's interpreter, not its compiler, cuts numbers off to get bfloat16."""
    values = torch.from_numpy(values)
    if INTERPRETED and dtype == torch.bfloat16:
        values = (values.view(torch.int32) & ~0xFFFF).view(torch.float32)
    return values.to(dtype)


# Rows


@examples(30)
@given(small | middle)
def test_index_is_the_references(p):
    found = kernels.index(p.D, p.d, p.seed, DEVICE)
    assert found.dtype == torch.int32 and found.tolist() == p.index().tolist()


@examples(60)
@given(large() | middle, st.data())
def test_slices_of_index_are_the_references(p, data):
    start, stop = data.draw(slices(p))
    assert kernels.index(p.D, p.d, p.seed, DEVICE, start, stop).tolist() == p.index(start, stop).tolist()


@examples(60)
@given(small | middle, dtypes, st.data())
def test_expand_is_the_references_rounded_once_more(p, dtype, data):
    theta = for_bfloat16(data.draw(vectors(p.d)), dtype)
    start, stop = data.draw(slices(p) | st.just((0, p.D)))
    found = kernels.expand(theta.to(DEVICE), p.D, p.seed, dtype, start, stop)
    assert found.dtype == dtype
    assert bits(found) == bits(rounded(p.expand(theta.float().numpy(), start, stop), dtype))


@examples(30)
@given(large(), st.data())
def test_expand_of_a_slice_of_a_large_one(p, data):
    p = Projection(D=p.D, d=min(p.d, 500), seed=p.seed)
    theta, (start, stop) = np.arange(p.d, dtype=np.float32), data.draw(slices(p))
    found = kernels.expand(torch.tensor(theta, device=DEVICE), p.D, p.seed, start=start, stop=stop)
    assert bits(found) == bits(torch.from_numpy(p.expand(theta, start, stop)))


def test_a_view_is_read_by_its_strides():
    p, pairs = Projection(D=300, d=50, seed=7), torch.randn(300, 2, device=DEVICE)
    theta, g = pairs[:50, 0], pairs[:, 1]
    assert torch.equal(kernels.expand(theta, 300, 7), kernels.expand(theta.clone(), 300, 7))
    assert torch.equal(kernels.adjoint(g, 50, 300, 7), kernels.adjoint(g.clone(), 50, 300, 7))
    np.testing.assert_array_equal(kernels.expand(theta, 300, 7).cpu(), p.expand(theta.cpu()))


# Columns


def documented(p, g, start):
    """Pᵀg as ``_splits`` says it, in NumPy: parts, rows of a part, and parts of a column one after the other."""
    splits, chunk = kernels._splits(p.D, p.d)
    y = np.arange(splits * chunk * p.d)
    rows = p.permutation.inverse(np.where(y < p.D, y, 0)) - start
    inside = (y < p.D) & (rows >= 0) & (rows < len(g))
    values = np.where(inside, np.append(g, np.float32(0))[np.where(inside, rows, 0)], np.float32(0))
    parts = np.zeros((splits, p.d), np.float32)
    for values_of_a_row in values.reshape(splits, chunk, p.d).swapaxes(0, 1):
        parts += values_of_a_row
    total = np.zeros(p.d, np.float32)
    for part in parts:
        total += part
    return total * p.scale()


@examples(60)
@given(small | middle, st.sampled_from([2**18, 500, 1]), st.data())
def test_adjoint_adds_in_the_documented_order(p, lanes, data):
    """Also where fewer lanes make the parts longer, as with a larger D."""
    start, stop = data.draw(slices(p) | st.just((0, p.D)))
    g = data.draw(vectors(stop - start)) * 2.0**-16  # so that no sum of 3000 overflows
    with mock.patch.object(kernels, "LANES", lanes):
        found, again = (kernels.adjoint(g.to(DEVICE), p.d, p.D, p.seed, start) for _ in range(2))
        assert bits(found) == bits(again) == bits(torch.from_numpy(documented(p, g.float().numpy(), start)))
    # SPEC 6.3: the kernel loses at most n_j roundings of 2^-24 each, the reference one.
    g, magnitude = g.float().numpy(), abs(g.double().numpy())
    column = p.index(start, stop)
    bound = p.counts() * 2.0**-23 * p.scale() * np.bincount(column, magnitude, p.d) + 2.0**-149
    assert (abs(found.cpu().numpy().astype(np.float64) - p.adjoint(g, start)) <= bound).all()


def test_slices_of_a_gradient_add_up():
    """Of whole numbers, whose sums are exact: the adjoint of all of it is the sum of those of its pieces."""
    g = torch.arange(1000.0, device=DEVICE)
    pieces = [kernels.adjoint(g[start : start + 300], 250, 1000, 3, start) for start in range(0, 1000, 300)]
    assert torch.equal(sum(pieces), kernels.adjoint(g, 250, 1000, 3))  # n_j = 4, so that the scale is 1/2


@pytest.mark.parametrize(
    ("D", "d", "expected"),
    [
        (1, 1, (1, 1)),
        (4096, 1, (1024, 4)),
        (36_864, 5760, (7, 1)),
        (10**8, 1000, (262, 382)),
        (8 * 10**7, 10**6, (1, 80)),
    ],
)
def test_the_parts_follow_from_D_and_d(D, d, expected):
    """Another number here is another order of addition: trained vectors would no longer be the same bytes."""
    assert kernels._splits(D, d) == expected


# Calls


@pytest.mark.parametrize(("D", "d", "seed"), [(0, 1, 0), (5, 6, 0), (5, 0, 0), (2**40 + 1, 1, 0), (5, 2, 2**64)])
def test_sizes_out_of_range_are_refused(D, d, seed):
    with pytest.raises(LimitError):
        kernels.index(D, d, seed, DEVICE, 0, 1)
    with pytest.raises(LimitError):
        kernels.adjoint(torch.zeros(1, device=DEVICE), d, D, seed)
    with pytest.raises(LimitError):
        kernels.expand(torch.zeros(d, device=DEVICE), D, seed, stop=1)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 6)])
def test_rows_out_of_range_are_refused(start, stop):
    with pytest.raises(LimitError):
        kernels.index(5, 2, 0, DEVICE, start, stop)
    with pytest.raises(LimitError):
        kernels.expand(torch.zeros(2, device=DEVICE), 5, 0, start=start, stop=stop)


def test_a_gradient_beyond_the_last_row_is_refused():
    with pytest.raises(LimitError):
        kernels.adjoint(torch.zeros(4, device=DEVICE), 2, 5, 0, start=2)


@pytest.mark.skipif(INTERPRETED or DEVICE == "cpu", reason="needs a GPU")
def test_a_cuda_graph_captures_each_call():
    def calls():
        return kernels.index(1000, 37, 42, "cuda"), kernels.expand(theta, 1000, 42), kernels.adjoint(g, 37, 1000, 42)

    theta, g = torch.randn(37, device="cuda"), torch.randn(1000, device="cuda")
    expected, graph = calls(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = calls()
    graph.replay()
    assert all(map(torch.equal, captured, expected))
