"""The Triton kernels beside the reference, bit by bit: what is wrong with one case, as a sentence, or None.

Triton's interpreter, not its compiler, has two faults of its own with bfloat16, which are allowed for where it runs.
"""

from unittest import mock

import numpy as np
import torch
import triton

from backends.torch.adapter.theta import triton_kernels as kernels
from unilora_spec import Projection

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def index_fault(p: Projection, start: int, stop: int) -> str | None:
    """What is wrong with ``index``, whose columns of the rows start … stop − 1 have to be the specification's."""
    found = kernels.index(p.D, p.d, p.seed, DEVICE, start, stop)
    return _fault("index", found, torch.from_numpy(p.index(start, stop).astype(np.int32)), p, start)


def expand_fault(p: Projection, theta: torch.Tensor, dtype: torch.dtype, start: int, stop: int) -> str | None:
    """What is wrong with ``expand``, which has to give the specification's float32, rounded to ``dtype``."""
    found = kernels.expand(theta.to(DEVICE), p.D, p.seed, dtype, start, stop)
    expected = rounded(p.expand(theta.float().numpy(), start, stop), dtype)
    return _fault(f"expand from {theta.dtype} to {dtype}", found, expected, p, start)


def adjoint_fault(p: Projection, g: torch.Tensor, start: int, lanes: int = kernels.LANES) -> str | None:
    """What is wrong with ``adjoint``, which has to sum in the documented order, twice alike, and within SPEC 6.3's bound of the reference.

    Fewer ``lanes`` make the parts longer, as a larger D does.
    """
    with mock.patch.object(kernels, "LANES", lanes):
        once, again = (kernels.adjoint(g.to(DEVICE), p.d, p.D, p.seed, start) for _ in range(2))
        expected = documented(p, g.float().numpy(), start)
    name = f"adjoint of {g.dtype} with {lanes} lanes"
    if fault := _fault(name, once, torch.from_numpy(expected), p, start) or _fault(
        f"{name}, again", again, once, p, start
    ):
        return fault
    # SPEC 6.3: the kernel loses at most n_j roundings of 2^-24 each, the reference one.
    values, magnitude, column = g.float().numpy(), abs(g.double().numpy()), p.index(start, start + len(g))
    bound = p.counts() * 2.0**-23 * p.scale() * np.bincount(column, magnitude, p.d) + 2.0**-149
    off = abs(once.cpu().numpy().astype(np.float64) - p.adjoint(values, start))
    return None if (off <= bound).all() else f"{name} of {p}: off by {off.max():.3g}, more than SPEC 6.3 allows"


def documented(p: Projection, g: np.ndarray, start: int) -> np.ndarray:
    """Pᵀg as ``triton_kernels._splits`` says it: parts, rows of a part, and parts of a column one after the other."""
    splits, chunk = kernels._splits(p.D, p.d)
    parts, padded = np.zeros((splits, p.d), np.float32), np.append(g, np.float32(0))
    first = np.arange(p.d) + np.arange(splits)[:, None] * chunk * p.d
    for k in range(chunk):
        y = first + k * p.d
        rows = p.permutation.inverse(np.where(y < p.D, y, 0).ravel()).reshape(y.shape) - start
        inside = (y < p.D) & (rows >= 0) & (rows < len(g))
        parts += padded[np.where(inside, rows, len(g))]
    total = np.zeros(p.d, np.float32)
    for part in parts:
        total += part
    return total * p.scale()


def _fault(name, found, expected, p, start):
    found = found.cpu()
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{name} of {p}: {found.dtype}{list(found.shape)} in place of {expected.dtype}{list(expected.shape)}"
    wrong = bits(found) != bits(expected)
    if not wrong.any():
        return None
    at = int(wrong.int().argmax())
    return f"{name} of {p} from row {start} on: entry {at} is {found[at].item()!r} in place of {expected[at].item()!r}"


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits as whole numbers, so that NaN is equal to itself and 0 is not equal to −0."""
    return tensor.cpu().contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def for_bfloat16(vector: torch.Tensor) -> torch.Tensor:
    """The vector with 0 in place of all that may become a denormal bfloat16, which Triton's interpreter takes for another number."""
    return vector.where(vector.abs() >= 2.0**-100, 0) if INTERPRETED else vector


def rounded(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """float32 rounded to ``dtype``. Triton's interpreter cuts numbers off to get bfloat16."""
    values = torch.from_numpy(values)
    if INTERPRETED and dtype == torch.bfloat16:
        values = (values.view(torch.int32) & ~0xFFFF).view(torch.float32)
    return values.to(dtype)
