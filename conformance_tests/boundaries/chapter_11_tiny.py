"""SPEC 11.16: `tiny`, whose R is a sum of random matrices."""

from ..oracle import arithmetic
from ..oracle.kinds import tiny
from . import exact, gives, limit, refused
from .chapter_11 import LARGEST_OPTION, expanded, not_expanded, of_kind, segment


def _tiny(segments, u, groups):
    """With a 1 in each row of G, so that a row of B is one of R; F is whole numbers."""
    p = of_kind("tiny", segments, u=u, groups=groups)
    frozen = []
    for s in segments:
        frozen += [float(1 + j % 5) for j in range(s["rank"] * s["in"])]
        frozen += [float(o % s["rank"] == m) for o in range(s["out"]) for m in range(s["rank"])]
    return p | {"frozen": frozen}


UNLIKE = [segment(3, 4, 2, "a"), segment(2, 3, 1, "b"), segment(4, 3, 3, "c"), segment(2, 2, 2, "d")]


@exact("11.16 11.2", "P_i[m, c], number u · E + (i − 1) · r² + m · r + c of stream 1, over √r", "expand", kind="tiny")
def random_matrices():
    """The same P_i for all segments, or for all i; i within the entries; R turned; 1/r or √r. Each v has one number that is not 0."""
    for u, groups in ((1, 1), (3, 1), (2, 4), (5, 2)):
        p = _tiny(UNLIKE, u, groups)
        for i in range(u):
            theta = [8.0**group if j == i else 0.0 for group in range(groups) for j in range(u)]
            yield expanded(f"u = {u}, {groups} groups, P_{i + 1}", p, theta=theta)


@exact("11.16", "group ⌊k · groups / n⌋", "expand", kind="tiny")
def groups_of_segments():
    """Groups of ⌊n / groups⌋, whose last one has the rest; of ⌈n / groups⌉; segments dealt in turns."""
    for n in range(1, 9):
        for groups in range(1, n + 1):
            p = _tiny([segment(1, 1, 1, f"{k}") for k in range(n)], 1, groups)
            yield expanded(f"{groups} of {n} segments", p, theta=[2.0**group for group in range(groups)])


@exact("11.16", "k · groups of 32 bits", "expand", kind="tiny", of="k · groups")
def many_groups():
    """k · groups in 31 bits or in a float32."""
    n, side = 65_535, 16  # so that θ_D is too large for an implementation to make it whole for two entries
    run = {"layers": [0, n], "prefix": "l.", "segments": [segment(1, side, 1, ".w")]}
    for groups, k in ((n, n - 1), (n - 1, n - 1)):  # the second product is one more than a multiple of n
        theta = [2.0 ** (group % 31) for group in range(groups)]
        p = of_kind("tiny", [run], groups, u=1, groups=groups) | {"frozen": [1.0] * (side + 1) * n}
        B, stop = arithmetic.f32(theta[k * groups // n] * tiny.random(p, k, 1)), (side + 1) * (k + 1)
        fields = {"projection": p, "theta": theta, "start": stop - 2, "stop": stop}
        yield gives(f"segment {k}, {groups} groups", {"theta_D": [1.0, B]}, **fields)


@limit("11.16", "groups at most as many as segments", "expand", kind="tiny")
def groups_at_most():
    """A group without a segment; groups in 8 or 16 bits."""
    for n in (1, 3, 255, 256):
        p = _tiny([segment(1, 1, 1, f"{k}") for k in range(n)], 1, n)
        yield expanded(f"{n} of {n} segments", p, 0, 2, theta=[1.0] * n)
        for groups in sorted({n + 1, n + 256, n + 2**16, LARGEST_OPTION}):
            yield not_expanded(f"{groups} of {n} segments", "11.16 11.1", p | {"groups": groups, "d": groups})


@limit("11.16", "u times the sum of r² at most 2^24", "expand", kind="tiny", of=("u · groups", "u · the sum of r²"))
def random_numbers():
    """A limit of each segment by itself, or of the largest; of u alone; products in 32 bits."""

    def of(u, ranks, groups=1):
        return _tiny([segment(r, r, r, f"{k}") for k, r in enumerate(ranks)], u, groups)

    for name, p in (
        ("2^12 of 64²", of(2**12, [64])), ("2^16 of 16²", of(2**16, [16])), ("2^11 of 64² twice", of(2**11, [64, 64])),
        ("3 of 1", of(3, [1])), ("2^15 in 4 groups of 8² twice", of(2**15, [8] * 8, 4)),
    ):  # fmt: skip
        yield gives(name, {"theta_D": p["frozen"][:1]}, projection=p, theta=[0.0] * p["d"], start=0, stop=1)
    small = _tiny(UNLIKE, 1, 1)
    for name, p, u, groups in (
        ("2^12 + 1 of 64²", of(1, [64]), 2**12 + 1, 1), ("2^16 + 1 of 16²", of(1, [16]), 2**16 + 1, 1),
        ("2^11 + 1 of 64² twice", of(1, [64, 64]), 2**11 + 1, 1), ("2^12 of 64² and 1", of(1, [64, 1]), 2**12, 1),
        ("2^32 + 4", of(1, [2]), 2**30 + 1, 1), ("2^32 + 18, in 4 groups", small, 238_609_295, 4), ("the largest u", small, LARGEST_OPTION, 1),
        ("u · groups = 2^32 − 2", small, LARGEST_OPTION, 2), ("u · groups = 2^33 − 4", small, LARGEST_OPTION, 4),
    ):  # fmt: skip
        for d in sorted({u * groups, u * groups % 2**32, 1}):
            theta = [0.0] * d if d < 2**17 else []
            asked = p | {"u": u, "groups": groups, "d": d}
            yield refused(f"{name}, d = {d}", "11.16 11.1 1.1", projection=asked, theta=theta, start=0, stop=0)
