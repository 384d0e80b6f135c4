"""SPEC 11: the family."""

from ..oracle import arithmetic, family, files
from ..oracle.kinds import LAYERED
from . import exact, gives, limit, refused
from .chapter_07 import described, file_of

MOST = 2**40
LARGEST_OPTION = 2**31 - 1


def of_kind(kind, segments, d=None, seed=42, **own):
    """The projection of these segments; ``d``, if not given, is what follows from them."""
    p = {
        "kind": kind,
        "seed": str(seed),
        "d": d,
        "D": sum(map(files.size, files.unfold(segments))),
        "layers": segments,
        **own,
    }
    return p | {"d": d if d is not None else LAYERED[kind].dim(p, files.unfold(segments))}


def segment(out, columns, rank=1, name="w"):
    return {"name": name, "out": out, "in": columns, "rank": rank}


def theta_of(d):
    return [arithmetic.f32((5 * j % 7 - 3) / 3) for j in range(d)]


def expanded(name, p, start=0, stop=None, theta=None):
    theta, stop = theta_of(p["d"]) if theta is None else theta, p["D"] if stop is None else stop
    theta_D, _ = family.expand(p, theta, start, stop)
    return gives(name, {"theta_D": theta_D}, projection=p, theta=theta, start=start, stop=stop)


def not_expanded(name, rules, p):
    return refused(name, rules, projection=p, theta=[0.0] * min(max(p["d"], 0), 2**20), start=0, stop=0)


FREE = {"layerwise": 2, "nonuniform": 2, "chain": 2, "fastfood": 2}
OPTIONS = {
    "vb": {"length": 1, "bank": 2, "topk": 2},
    "nonuniform": {"of_A": 1, "of_B": 1},
    "chain": {"links": 2},
    "tiny": {"u": 2, "groups": 1},
}


def plain(kind, segments=None, **changes):
    """A projection of the kind with the least that it needs."""
    p = of_kind(kind, segments or [segment(2, 2, 2)], FREE.get(kind, 0), **OPTIONS.get(kind, {}))
    for name, (_, length, _) in (LAYERED[kind].own(p, p["layers"]) if hasattr(LAYERED[kind], "own") else {}).items():
        p[name] = [0] * length
    if kind not in FREE:
        p["d"] = LAYERED[kind].dim(p, p["layers"])
    return p | changes


@limit("11.1", "the layer map's D is D; another d", "expand", kinds=[kind for kind in LAYERED if kind != "fastfood"])
def sizes(kind):
    """D or d in 32 bits; a d that is taken as it is where it follows from the layer map. (fastfood knows D alone, 11.12.)"""
    p = plain(kind)
    zeros = [0.0] * p["d"]
    yield gives("as it is, no rows", {"theta_D": []}, projection=p, theta=zeros, start=0, stop=0)
    own = f" {LAYERED[kind].RULE} 8.8"
    for D in (p["D"] - 1, p["D"] + 1, p["D"] + 2**32, 0, MOST + 1):
        yield not_expanded(f"D = {D}", "11.1 1.1" + own, p | {"D": D})
    follows = kind not in FREE
    for d in (p["d"] - 1, p["d"] + 1, 2 * p["d"], p["d"] + 256) if follows else ():
        yield not_expanded(f"d = {d}", "11.1 1.1" + own, p | {"d": d})
    for d in (0, -1, 2**31, 2**32 + p["d"]):
        yield refused(f"d = {d}", "11.1 1.1" + own, projection=p | {"d": d}, theta=zeros, start=0, stop=0)


@limit("11.1", "options from their least to 2^31 − 1", "expand", kinds=tuple(OPTIONS))
def options(kind):
    """An option in 32 bits; 0 as none; one less than the least."""
    p = plain(kind)
    yield gives("as they are", {"theta_D": []}, projection=p, theta=[0.0] * p["d"], start=0, stop=0)
    for option in OPTIONS[kind]:
        least = LAYERED[kind].OPTIONS[option][0]
        for value in (least - 1, -1, -(2**32) + p[option], 2**31, 2**32, 2**32 + p[option], MOST, 2**53 - 1):
            yield not_expanded(f"{option} = {value}", f"11.1 {LAYERED[kind].RULE}", p | {option: value})


@limit(
    "11.1",
    "no segment of rank 0 in a kind of A and B",
    "expand",
    kinds=[k for k in LAYERED if not getattr(LAYERED[k], "WHOLE", False)],
)
def rank_0(kind):
    """A segment without A and B that takes no entries, or those of one."""
    p = plain(kind)
    yield gives("rank 2", {"theta_D": []}, projection=p, theta=[0.0] * p["d"], start=0, stop=0)
    for at in (0, 1):
        segments = [segment(2, 2, 2, "v"), segment(2, 2, 2, "w")]
        q = plain(kind, segments)
        q["layers"] = [s | {"rank": 0 if k == at else 2} for k, s in enumerate(segments)]
        q["D"] = 12
        yield not_expanded(f"segment {at} of two", f"11.1 {LAYERED[kind].RULE}", q)


def vb(segments, length, bank, topk, index=None):
    p = {"length": length, "bank": bank, "topk": topk}
    n = LAYERED["vb"].count(p, segments)
    return of_kind("vb", segments, **p, index=[j % bank for j in range(n * topk)] if index is None else index)


@exact("11.5", "what a range begins with", "initial", kinds=[k for k in LAYERED if hasattr(LAYERED[k], "theta_D")])
def starts(kind):
    """Roots and quotients in float32; j counted in each range; the bound of the request taken."""
    segments = [segment(6, 3, 2, "a"), segment(3, 6, 3, "b")]
    if kind == "fastfood":
        p = of_kind(kind, segments, 40)
    elif kind == "vb":
        p = vb(segments, 3, 7, 3)
    else:
        p = of_kind(kind, segments, 0, **OPTIONS.get(kind, {}))
        own = LAYERED[kind].own(p, segments) if hasattr(LAYERED[kind], "own") else {}
        p |= {name: [0.0] * length for name, (_, length, _) in own.items()} | {"d": LAYERED[kind].dim(p, segments)}
    for bound in (0.02, 5.0):
        yield gives(f"a bound of {bound}", {"theta": LAYERED[kind].start(p, segments)}, projection=p, bound=bound)


@exact(
    "11.3",
    "each sum and each product rounded once, in the order of the rule",
    "expand",
    kinds=("vera", "tied", "vb", "fastfood", "qr"),
)
def roundings(kind):
    """Products or sums in float64, or fused: numbers below the normal range, odd ones, the largest that does not overflow."""
    numbers = [1.1, -0.3, 2.0**-140, 1e-38, -(2.0**-149), 16777217.0, 3.3, -0.0, 0.1, 1e10, -7.7, 1 / 3]
    segments = [segment(3, 6, 2, "a"), segment(6, 3, 3, "b")]
    p = (
        of_kind(kind, segments, 12)
        if kind == "fastfood"
        else vb(segments, 3, 4, 3)
        if kind == "vb"
        else of_kind(kind, segments, 0, frozen=[])
    )
    if kind == "qr":
        p["frozen"] = [arithmetic.f32(numbers[j % 12]) for j in range(LAYERED["qr"].own(p, segments)["frozen"][1])]
    if kind not in ("fastfood", "vb"):
        p = {key: value for key, value in p.items() if key != "frozen" or kind == "qr"} | {
            "d": LAYERED[kind].dim(p, segments)
        }
    theta = [arithmetic.f32(numbers[j % 12]) for j in range(p["d"])]
    yield expanded("all", p, theta=theta)
    yield expanded("a slice", p, 3, 11, theta)


@limit("11.1 8.6", "options, fields of `projection` that must be there", "read", kinds=tuple(OPTIONS))
def options_of_a_file(kind):
    """An option that is missing, given to another kind, or spelled with a point."""
    p = plain(kind)
    own = {
        name: (dtype, [length], [0] * length)
        for name, (dtype, length, _) in (
            LAYERED[kind].own(p, p["layers"]) if hasattr(LAYERED[kind], "own") else {}
        ).items()
    }
    tensors = {"theta": ("F32", [p["d"]], [0.0] * p["d"])} | own
    bare = {key: value for key, value in p.items() if key not in ("layers", *own)}
    text = described(p["layers"]) | {"projection": bare}
    yield gives("as they are", {"description": files.describe(text)}, file=files.write(text, tensors))
    for option in OPTIONS[kind]:
        for name, rules, change in (
            ("missing", "8.6 11.1", lambda q, o=option: q.pop(o)), ("0", f"11.1 {LAYERED[kind].RULE}", lambda q, o=option: q.update({o: 0})),
            ("a text", "8.6 11.1", lambda q, o=option: q.update({o: str(q[o])})), ("true", "8.6 11.1", lambda q, o=option: q.update({o: True})),
            ("2^31", f"11.1 {LAYERED[kind].RULE}", lambda q, o=option: q.update({o: 2**31})), ("a list", "8.6 11.1", lambda q, o=option: q.update({o: [q[o]]})),
            ("in capitals too", "8.6", lambda q, o=option: q.update({o.upper(): q[o]})),
        ):  # fmt: skip
            changed = dict(bare)
            change(changed)
            yield refused(f"{option}: {name}", rules, file=files.write(text | {"projection": changed}, tensors))
        yield refused(
            f"{option} of balanced",
            "8.6",
            file=file_of(described(p["layers"]) | {"projection": bare | {"kind": "balanced"}}),
        )
