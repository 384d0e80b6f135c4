"""What Hypothesis draws requests from, with the edges of SPEC.md more often than by chance.

Projections, descriptions and tensors are the plain values that the protocol sends.
"""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from unilora_spec.protocol import field_of

from .oracle import files
from .oracle.kinds import LAYERED

LARGEST = 2**40


def few():
    """Settings with a third of the examples, for checks that run for many kinds, which share most of their code. Edges are not left to
    chance: boundaries/ asks them at each run."""
    return settings(max_examples=-(-settings.default.max_examples // 3))


# Projections (SPEC 1 to 6)

seeds = st.sampled_from([0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
words = st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


@st.composite
def around_squares(draw):
    """a², and one more or less: where the root of SPEC 4.1 changes, and where nothing or nearly all is walked."""
    a = draw(st.integers(1, 20) | st.integers(1, 2**20) | st.sampled_from([2**15, 2**16, 46341, 65537, 2**20]))
    return min(max(a * a + draw(st.integers(-1, 1)), 1), LARGEST)


around_powers = st.sampled_from([2**n + k for n in (8, 16, 31, 32, 33, 39) for k in (-1, 0, 1)])
sizes = st.one_of(st.integers(1, 300), around_squares(), around_powers, st.sampled_from([LARGEST, LARGEST - 1]))
"""D, in all of its range."""
small_sizes = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 3, 5, 15, 16, 17, 255, 256, 257]))
"""D where every entry is looked at."""
LARGEST_TABLE = 4096  # D of kind `table`, which is sent with each request; more than the layer maps below have


@st.composite
def projections(draw, kind, sizes=sizes, largest_d=2**31 - 1):
    """The object `projection`: d is 1, D, a divisor of D or of D − 1, or anything. With kind `table` it has its `index`, with
    those that are layered, whose D is small, `layers` and what else they have."""
    if kind in LAYERED:
        p, segments, own = draw(layered(kind, draw(layer_maps_for(kind))))
        return p | {
            "layers": files.fold(segments),
            **{name: tensor[field_of(tensor["dtype"])] for name, tensor in own.items()},
        }
    D = draw(sizes)
    if kind == "table":
        D = D if D <= LARGEST_TABLE else 300
    most = min(D, largest_d)
    if kind == "identity":
        D = d = most
    else:
        pieces = draw(st.integers(1, 7))
        d = draw(st.sampled_from([1, most, D // pieces, (D - 1) // pieces]) | st.integers(1, most))
        d = min(max(d, 1), most)
    table = {"index": draw(tables(D, d))} if kind == "table" else {}
    return {"kind": kind, "seed": str(draw(seeds)), "d": d, "D": D, **table}


@st.composite
def layered(draw, kind, segments):
    """The object `projection` of a file whose layer map is ``segments``, or one that suits the kind, this, and the kind's tensors."""
    of_kind = LAYERED[kind]
    p = {"kind": kind, "seed": str(draw(seeds))}
    p |= {name: draw(st.integers(*limits)) for name, limits in of_kind.OPTIONS.items()}
    segments = of_kind.fitting(p, segments) if hasattr(of_kind, "fitting") else segments
    p["D"] = sum(map(files.size, segments))
    p["d"] = of_kind.dim(p, segments) if hasattr(of_kind, "dim") else draw(st.sampled_from(of_kind.dims(p, segments)))
    own = {}
    tensors = of_kind.own(p, segments) if hasattr(of_kind, "own") else {}
    for name, (dtype, length, end) in tensors.items():
        numbers = draw(tables(length, end) if dtype == "I32" else vectors(length, moderate))
        own[name] = {"dtype": dtype, "shape": [length], field_of(dtype): numbers}
    return p, segments, own


def tables(D, d):
    """int64[D], columns of [0, d): some drawn, repeated in order, so that columns are full, empty and the last."""
    return entries(d, 30).map(lambda drawn: np.resize(np.array(drawn, np.int64), D))


@st.composite
def slices(draw, end, longest=24):
    """start and stop within [0, end]: at both ends, anywhere, and empty."""
    length = min(end, draw(st.integers(0, longest)))
    start = draw(st.sampled_from([0, end - length]) | st.integers(0, end - length))
    return start, start + length


def entries(end, longest=24):
    """Numbers of [0, end), the first and the last among them."""
    return st.lists(st.sampled_from([0, end - 1]) | st.integers(0, end - 1), min_size=1, max_size=longest)


SPECIAL = [0.0, -0.0, 1.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1.1754942106924411e-38, 3.4028234663852886e38]
floats = st.sampled_from(SPECIAL) | st.floats(width=32, allow_nan=False, allow_infinity=False)
"""float32: denormals, both zeros and the largest among them."""


moderate = st.sampled_from([0.0, 1.0, -0.5]) | st.floats(-64, 64, width=16, allow_subnormal=False)
"""So large that no sum of a few products overflows, and so short that bounds on it are."""


def vectors(length, values=floats):
    """float32[length]: some entries drawn, repeated in order; long vectors cost no more to draw than short ones."""
    few = st.lists(values, min_size=min(length, 1), max_size=min(length, 12))
    return few.map(lambda drawn: np.resize(np.array(drawn, np.float32), length))


# Layer maps (SPEC 7)

dimensions = st.integers(1, 4)
# Few names, so that numbers follow each other and runs come about: most maps drawn from wide text would fold nowhere.
numbers = st.sampled_from(["0", "1", "2", "9", "10", "11", "01", "999999999", "1000000000", "٣"])
name_parts = st.sampled_from(["a", "layer", "q", "v2", "é", "𝔸", "", '"\\', "\n"])
names = st.lists(numbers | name_parts, min_size=1, max_size=4).map(".".join).filter(bool)


@st.composite
def sides(draw, columns):
    """`out` and `rank` of a segment of so many columns."""
    out = draw(dimensions)
    return {"out": out, "rank": draw(st.sampled_from([0, 1, min(out, columns)]) | st.integers(0, min(out, columns)))}


@st.composite
def segments_of(draw, name):
    """The segments of one weight: whole, rows or indices, stored either way. A rank is at most the smaller side (SPEC 7.11)."""
    form = {"name": name, "in": draw(dimensions)}
    if draw(st.booleans()):
        form["transposed"] = True
    part = draw(st.sampled_from(["whole", "rows", "stack"]))
    if part == "whole":
        return [{**form, **draw(sides(form["in"]))}]
    if part == "stack":
        form |= draw(sides(form["in"]))
        picked = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True))
        return [{**form, "index": index} for index in picked]
    result, row = [], 0
    for gap, rows in draw(st.lists(st.tuples(st.integers(0, 2), sides(form["in"])), min_size=1, max_size=3)):
        result.append({**form, **rows, "row": row + gap})
        row += gap + rows["out"]
    return result


@st.composite
def layer_maps(draw):
    """Segments: weights at random, then layers that differ in their number alone, at times with an exception."""
    groups = [draw(segments_of(name)) for name in draw(st.lists(names, max_size=3, unique=True))]
    layer = [draw(segments_of(name)) for name in draw(st.lists(st.sampled_from(["x", "y.0.w", "."]), unique=True))]
    first, count = draw(st.integers(0, 11)), draw(st.integers(0, 4))
    for number in range(first, first + count):
        for group in layer:
            name = f"run.{number}.{group[0]['name']}".rstrip(".")
            groups.append([{**segment, "name": name} for segment in group])
    segments = [segment for group in groups for segment in group]
    if segments and draw(st.booleans()):
        at = draw(st.integers(0, len(segments) - 1))
        segments[at] = {**segments[at], "rank": 0 if segments[at]["rank"] else 1}
    segments = segments or [{"name": "w", "out": 1, "in": 1, "rank": 1}]
    return list(draw(st.permutations(segments))) if draw(st.booleans()) else segments


def layer_maps_for(kind):
    """Layer maps that the kind can have: without segments of rank 0 where it is of A and B."""
    if kind in LAYERED and not getattr(LAYERED[kind], "WHOLE", False):
        return layer_maps().map(lambda segments: [{**s, "rank": s["rank"] or 1} for s in segments])
    return layer_maps()


alphas = st.sampled_from([1e-4, 0.1, 1, 16, 2**20]) | st.floats(1e-4, 2**20)

# Adapters (SPEC 8)

MOST = {"F32": float(np.finfo(np.float32).max), "F16": 65504.0, "BF16": 3.3895313892515355e38}
"""What each dtype can hold."""
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
bases = st.fixed_dictionaries(
    {"name": texts, "structure": st.just("0" * 32), "contents": st.just("9f" * 16)},
    optional={
        "architecture": texts,
        "labels": st.lists(texts, max_size=3),
        "problem_type": st.sampled_from(["regression", "single_label_classification", "multi_label_classification"]),
        "rest": st.sampled_from(["", "0123456789abcdef", "f" * 16 + "0" * 16]),
    },
)


def values(dtype, length):
    """float32[length] that the dtype can hold, not all of them exactly."""
    return vectors(length, floats.filter(lambda x: abs(x) <= MOST[dtype]))


@st.composite
def tensors(draw, shape):
    """A tensor of the protocol."""
    dtype = draw(st.sampled_from(["F32", "F16", "BF16"]))
    return {"dtype": dtype, "shape": shape, "values": draw(values(dtype, math.prod(shape)))}


@st.composite
def adapters(draw, kinds, base=None):
    """A description, its segments one by one, and the tensors by name. ``base``: what the base's record is drawn from."""
    kind = draw(st.sampled_from(kinds))
    segments = draw(layer_maps_for(kind))
    D, own = sum(map(files.size, segments)), {}
    if kind in LAYERED:
        projection, segments, own = draw(layered(kind, segments))
    else:
        projection = draw(projections(kind, sizes=st.just(D), largest_d=D))
    if kind not in ("identity", *LAYERED):
        d = projection["d"] = min(projection["d"], draw(st.integers(1, 9)))
    if kind == "table":
        own["index"] = {"dtype": "I32", "shape": [D], "index": projection.pop("index") % d}
    description = {"projection": projection, "alpha": draw(alphas), "layers": segments}
    description["scaling"] = draw(st.sampled_from(["lora", "rslora"]))
    if record := draw(base or st.none() | bases):
        description["base"] = record
    names = draw(
        st.lists(texts.filter(lambda name: name not in {s["name"] for s in segments}), max_size=3, unique=True)
    )
    shapes = st.lists(st.integers(0, 3), max_size=3)
    saved = {f"saved.{name}": draw(tensors(draw(shapes))) for name in names}
    return description, {"theta": draw(tensors([projection["d"]]))} | own | saved
