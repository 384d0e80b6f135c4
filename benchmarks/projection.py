"""P by itself: making it, expanding with it, its adjoint, and what an entry of a long θ_D costs. Rows 2, 4, 5, 12."""

from functools import cache

import numpy as np
import torch
from peft.tuners.unilora.model import UniLoraModel

from backends.torch.adapter.theta.expansion import index_of, storage_of
from unilora_spec import Projection

from .measure import Rounds, alternate, compared, functions, operators, row

D, d, SEED = 20_000_000, 524_288, 0
SLICE = 1_000_000
LENGTHS = {"1 M": 10**6, "10 M": 10**7, "100 M": 10**8, "1 G": 10**9, "2^33, for information": 2**33}
SIZES = f"D = {D:,}, d = {d:,}"


@cache
def cached():
    return storage_of(Projection(D=D, d=d, seed=SEED), "cpu", "cached")


def random(count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(SEED))


def set_up(rounds: Rounds) -> list[dict]:
    projection, out = Projection(D=D, d=d, seed=SEED), np.empty(D, np.int32)
    peers_index = UniLoraModel.generate_index(D, d, SEED)
    times = alternate(
        {
            "numpy": lambda: projection.index(out=out),
            "torch": lambda: index_of(projection),
            "peft": lambda: UniLoraModel.generate_index(D, d, SEED),
            "scales": lambda: _peers_scales(peers_index),
        },
        rounds(7),
    )
    lines = [
        compared("in NumPy, on one thread", times["numpy"], times["peft"], 0.25, profile="P's index in NumPy"),
        compared("in torch, on all threads", times["torch"], times["peft"], 0.15, profile="P's index in NumPy"),
        compared("PEFT's scale of every entry, which it makes as well", times["scales"], times["peft"]),
    ]
    how = (
        f"{SIZES}. Measured are `Projection.index` into an int32 array and `index_of`; PEFT's is"
        " `UniLoraModel.generate_index`, NumPy on one thread, to int64. After it, PEFT counts how often each number of"
        " θ is used and gathers a float32 scale for every entry: a line of its own, not part of what the bounds are"
        " on. Ours has a scale for each number of θ."
    )
    profile = functions(lambda: projection.index(out=out))
    about = "Set-up of P", "the index of all D entries", "PEFT's index generation"
    return [row(2, *about, how, lines, profiles={"P's index in NumPy": profile})]


def _peers_scales(indices):
    """As in UniLoraModel._assign_unilora_indices_and_scales, where it is for each matrix in turn."""
    counts = torch.bincount(indices, minlength=d)
    return counts.float().rsqrt()[indices]


def expand(rounds: Rounds) -> list[dict]:
    storage, theta, x, out = cached(), random(d), random(D), torch.empty(D)
    steps = {
        "expand": lambda: storage.expand(theta),
        "clone": lambda: x.clone(),
        "expand, out": lambda: torch.index_select(theta, 0, storage.index, out=out),
        "copy": lambda: out.copy_(x),
    }
    with torch.no_grad():
        times = alternate(steps, rounds(40))
    lines = [
        compared("to a new array", times["expand"], times["clone"]),
        compared("to an array that is there: the gather alone", times["expand, out"], times["copy"]),
    ]
    how = (
        f"{SIZES}, P cached, float32, all threads. The copy of D floats is `x.clone()`, which writes a new array as"
        " `expand` does. The second line has both write to an array that is there already, so that the time to get"
        " fresh memory from the system is in neither. No bound is on either: of each entry the copy moves 8 bytes, the"
        " gather 12, of which it finds 4 at a random place, so that no gather takes a copy's time. glibc gets arrays above"
        " 32 MiB from the system anew each time; a process that begins with `MALLOC_MMAP_THRESHOLD_=4294967296` and"
        " `MALLOC_TRIM_THRESHOLD_=8589934592` in its environment keeps them, and the first line is then near the second."
    )
    about = "Expand θ to θ_D", "`storage.expand(theta)`, cached", "a copy of D floats"
    return [row(4, *about, how, lines)]


def expand_and_adjoint(rounds: Rounds) -> list[dict]:
    storage, g = cached(), random(D)
    theta = random(d).requires_grad_()
    indices, scales = storage.index.long(), torch.cat(storage.scale)[storage.index]

    def ours():
        storage.expand(theta).backward(g)
        theta.grad = None

    def peft():
        (theta[indices] * scales).backward(g)
        theta.grad = None

    times = alternate({"ours": ours, "peft": peft}, rounds(12))
    name = "Expand and adjoint"
    lines = [compared("forward and backward", times["ours"], times["peft"], 0.5, profile=name)]
    how = (
        f"{SIZES}, P cached, float32, all threads. PEFT's is `theta[indices] * scales` with int64 indices and a float32"
        " scale for each entry, and its backward, on one array of D entries; its layers do it matrix by matrix."
    )
    about = name, "`storage.expand(theta)` and its backward", "PEFT's gather, scale and their backward"
    return [row(5, *about, how, lines, profiles={name: operators(ours, None, rounds(3))})]


def growth(rounds: Rounds) -> list[dict]:
    out = np.empty(SLICE, np.int32)

    def middle(length):
        projection, start = Projection(D=length, d=d, seed=SEED), (length - SLICE) // 2
        return lambda: projection.index(start, start + SLICE, out=out)

    steps = {name: middle(length) for name, length in LENGTHS.items()}
    per_entry = {name: 1e9 * seconds / SLICE for name, seconds in alternate(steps, rounds(60)).items()}
    first, *others = LENGTHS
    lines = [
        compared(
            f"D = {name}",
            per_entry[name],
            per_entry[first],
            1.5 if LENGTHS[name] <= 10**9 else None,
            unit="ns an entry",
            profile="A slice of 1 G" if LENGTHS[name] <= 10**9 else None,
        )
        for name in others
    ]
    how = (
        f"`Projection.index` of the {SLICE:,} entries in the middle of θ_D, NumPy on one thread, d = {d:,}, against D ="
        f" {SLICE:,}, where they are all. Up to D = 2^32 the arithmetic fits in 32 bits; beyond, it does not."
    )
    about = "Growth with D", "time for an entry of a long θ_D", "the same at D = 1 M"
    return [row(12, *about, how, lines, profiles={"A slice of 1 G": functions(steps["1 G"])})]
