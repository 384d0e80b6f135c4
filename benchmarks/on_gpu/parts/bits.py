"""The bits of index, expand and adjoint against NumPy's, over many cases; and the cases that Hypothesis draws, where it is there."""

import importlib
from collections.abc import Callable, Iterator

import torch

from unilora_spec import Projection

from .. import kernels
from ..cases import Cases
from ..findings import Context, checked, guarded, left_out
from ..running import command

HYPOTHESIS = "the cases of Hypothesis"
LARGE = 20_000_000, 524_288  # D and d of the performance page, all of whose entries are compared


def findings(context: Context) -> Iterator[dict]:
    """A few cases where Triton interprets, which takes it half a second for one; a thousand and more where there is a GPU."""
    count = 400 if context.gpu else 4
    for name, fault in FAULTS.items():
        yield from guarded(name, _cases(name, fault, count))
    yield from guarded("all entries of a large one", _large(*(LARGE if context.gpu else (600, 50))))
    yield from guarded(HYPOTHESIS, _hypothesis(context))


def index(cases: Cases) -> str | None:
    p = cases.one_of(cases.projection(40), cases.projection(3000), cases.large())
    return kernels.index_fault(p, *cases.rows(p))


def expand(cases: Cases) -> str | None:
    p, dtype = (
        cases.one_of(cases.projection(40), cases.projection(3000), cases.large(500)),
        cases.one_of(*kernels.DTYPES),
    )
    theta = cases.vector(p.d, cases.one_of(*kernels.DTYPES))
    if torch.bfloat16 in (theta.dtype, dtype):
        theta = kernels.for_bfloat16(theta)
    return kernels.expand_fault(p, theta, dtype, *cases.rows(p))


def adjoint(cases: Cases) -> str | None:
    p = cases.one_of(cases.projection(40), cases.projection(3000))
    start, stop = cases.rows(p)
    g = cases.vector(stop - start, cases.one_of(*kernels.DTYPES))
    g = (
        kernels.for_bfloat16(g) if g.dtype == torch.bfloat16 else g
    ) * 2.0**-16  # so that no sum of 3000 numbers overflows
    return kernels.adjoint_fault(p, g, start, cases.one_of(2**18, 500, 1))


FAULTS: dict[str, Callable[[Cases], str | None]] = {"index": index, "expand": expand, "adjoint": adjoint}


def _cases(name, fault, count):
    cases = Cases(0)
    yield checked(f"{name} against NumPy", count, [said for _ in range(count) if (said := fault(cases))])


def _large(D, d):
    p, random = Projection("balanced", D=D, d=d, seed=0), torch.Generator().manual_seed(0)
    theta, g = (torch.randn(count, generator=random) for count in (d, D))
    faults = [kernels.expand_fault(p, theta, dtype, 0, D) for dtype in kernels.DTYPES] + [
        kernels.adjoint_fault(p, g, 0)
    ]
    yield checked(f"all entries at D = {D:,}, d = {d:,}", len(faults), list(filter(None, faults)))


def _hypothesis(context):
    for package in ("hypothesis", "pytest"):
        importlib.import_module(package)
    if not context.gpu:
        yield left_out(HYPOTHESIS, "`make test` runs them without a GPU")
        return
    call = ["pytest", "-p", "no:cacheprovider", "-o", "addopts=-q", "tests/triton_bits.py"]
    yield from command(f"{HYPOTHESIS}, tests/triton_bits.py", call, context)
