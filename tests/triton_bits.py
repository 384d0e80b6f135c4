"""The Triton kernels beside the reference, bit by bit. tests/test_triton.py runs this file in processes of its own."""

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
from benchmarks.on_gpu.kernels import DEVICE, INTERPRETED, adjoint_fault, expand_fault, for_bfloat16, index_fault

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

small = projections(["balanced"], 40)  # where many passes follow each other: a² may be twice D
# More than one program, with a tail: the interpreter takes milliseconds for each step of one.
middle = projections(["balanced"], 300 if INTERPRETED else 3000)
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
    vector = torch.tensor(np.resize(values, length)).to(dtype)
    return for_bfloat16(vector) if dtype == torch.bfloat16 else vector


# Rows


@examples(30)
@given(small | middle)
def test_index_is_the_references(p):
    assert index_fault(p, 0, p.D) is None


@examples(60)
@given(large() | middle, st.data())
def test_slices_of_index_are_the_references(p, data):
    assert index_fault(p, *data.draw(slices(p))) is None


@examples(60)
@given(small | middle, dtypes, st.data())
def test_expand_is_the_references_rounded_once_more(p, dtype, data):
    theta = data.draw(vectors(p.d))
    theta = for_bfloat16(theta) if dtype == torch.bfloat16 else theta
    assert expand_fault(p, theta, dtype, *data.draw(slices(p) | st.just((0, p.D)))) is None


@examples(30)
@given(large(), st.data())
def test_expand_of_a_slice_of_a_large_one(p, data):
    p = Projection(D=p.D, d=min(p.d, 500), seed=p.seed)
    assert expand_fault(p, torch.arange(float(p.d)), torch.float32, *data.draw(slices(p))) is None


def test_a_view_is_read_by_its_strides():
    D = 150
    p, pairs = Projection(D=D, d=50, seed=7), torch.randn(D, 2, device=DEVICE)
    theta, g = pairs[:50, 0], pairs[:, 1]
    assert torch.equal(kernels.expand(theta, D, 7), kernels.expand(theta.clone(), D, 7))
    assert torch.equal(kernels.adjoint(g, 50, D, 7), kernels.adjoint(g.clone(), 50, D, 7))
    np.testing.assert_array_equal(kernels.expand(theta, D, 7).cpu(), p.expand(theta.cpu()))


# Columns


@examples(30)
@given(small | middle, st.sampled_from([2**18, 500, 1]), st.data())
def test_adjoint_adds_in_the_documented_order(p, lanes, data):
    """Also where fewer lanes make the parts longer, as with a larger D."""
    start, stop = data.draw(slices(p) | st.just((0, p.D)))
    g = data.draw(vectors(stop - start)) * 2.0**-16  # so that no sum of 3000 overflows
    assert adjoint_fault(p, g, start, lanes) is None


def test_slices_of_a_gradient_add_up():
    """Of whole numbers, whose sums are exact: the adjoint of all of it is the sum of those of its pieces."""
    g = torch.arange(400.0, device=DEVICE)
    pieces = [kernels.adjoint(g[start : start + 150], 100, 400, 3, start) for start in range(0, 400, 150)]
    assert torch.equal(sum(pieces), kernels.adjoint(g, 100, 400, 3))  # n_j = 4, so that the scale is 1/2


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
