"""What Hypothesis draws the tests' projections, layer maps and adapters from."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment

KINDS = ("balanced", "uniform", "identity")


def examples(count):
    """Settings of every property here: the same examples on every run, and no limit on the time of one."""
    return settings(max_examples=count, derandomize=True, deadline=None)


seeds = st.integers(0, 2**64 - 1)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def projections(draw, kinds=KINDS, most=60):
    kind = draw(st.sampled_from(kinds))
    D = draw(st.integers(1, most))
    d = D if kind == "identity" else draw(st.integers(1, D))
    return Projection(kind=kind, D=D, d=d, seed=draw(seeds))


sizes = st.integers(1, 4)
# Few names, so that numbers follow each other and runs come about: most maps drawn from wide text would fold nowhere.
numbers = st.sampled_from(["0", "1", "2", "9", "10", "11", "01", "4294967296", "9999999999999999"])
words = st.sampled_from(["a", "layer", "q", "v2", "é", "𝔸", "", '"\\', "\n"])
names = st.lists(st.one_of(numbers, words), min_size=1, max_size=4).map(".".join).filter(bool)


@st.composite
def segments_of(draw, name):
    """The segments of one weight: whole, rows or indices, stored either way."""
    form = {"in_features": draw(sizes), "rank": draw(sizes), "transposed": draw(st.booleans())}
    part = draw(st.sampled_from(["whole", "rows", "stack"]))
    if part == "whole":
        return [Segment(name, draw(sizes), **form)]
    if part == "stack":
        out, picked = draw(sizes), draw(st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True))
        return [Segment(name, out, **form, index=index) for index in picked]
    result, row = [], 0
    for gap, out in draw(st.lists(st.tuples(st.integers(0, 2), sizes), min_size=1, max_size=3)):
        result.append(Segment(name, out, **form, row=row + gap))
        row += gap + out
    return result


@st.composite
def layer_maps(draw):
    """Weights at random, then layers that differ in their number alone, at times with one exception among them."""
    groups = [draw(segments_of(name)) for name in draw(st.lists(names, max_size=4, unique=True))]
    layer = [draw(segments_of(name)) for name in draw(st.lists(st.sampled_from(["x", "y.0.w", "."]), unique=True))]
    first, count = draw(st.integers(0, 11)), draw(st.integers(0, 4))
    for number in range(first, first + count):
        for group in layer:
            name = f"run.{number}.{group[0].name}".rstrip(".")
            groups.append([_replace(segment, name=name) for segment in group])
    segments = [segment for group in groups for segment in group]
    if segments and draw(st.booleans()):
        at = draw(st.integers(0, len(segments) - 1))
        segments[at] = _replace(segments[at], rank=5)
    segments = segments or [Segment("w", 1, 1, 1)]
    if draw(st.booleans()):
        segments = draw(st.permutations(segments))
    alpha = draw(st.one_of(st.sampled_from([1e-4, 0.1, 1, 16, 2**20]), st.floats(1e-4, 2**20)))
    return LayerMap(segments, alpha, draw(st.sampled_from(["lora", "rslora"])))


def _replace(segment, **changes):
    return Segment(**{field: getattr(segment, field) for field in Segment.__slots__} | changes)


# What each dtype can hold, as float32: F16 up to 65504; BF16 up to the largest float32 with a zero low half.
MOST = {"F32": float(np.finfo(np.float32).max), "F16": 65504.0, "BF16": 3.3895313892515355e38}


@st.composite
def arrays(draw, dtype, shape):
    return draw(hnp.arrays(np.float32, shape, elements=st.floats(-MOST[dtype], MOST[dtype], width=32)))


dtypes = st.sampled_from(["F32", "F16", "BF16"])
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def adapters(draw):
    layer_map = draw(layer_maps())
    kind = draw(st.sampled_from(["balanced", "uniform", "identity"]))
    d = layer_map.D if kind == "identity" else draw(st.integers(1, min(layer_map.D, 9)))
    saved = draw(st.dictionaries(texts.filter(lambda name: name not in layer_map.by_weight()), dtypes, max_size=3))
    stored = {"theta": draw(dtypes)} | {f"saved.{name}": dtype for name, dtype in saved.items()}
    optional = st.none() | st.lists(texts, max_size=3).map(tuple)
    base = Base(draw(texts), "0" * 32, "9f" * 16, draw(st.none() | texts), draw(optional))
    return Adapter(
        Projection(kind=kind, D=layer_map.D, d=d, seed=draw(seeds)),
        layer_map,
        draw(arrays(stored["theta"], d)),
        draw(st.sampled_from([base, None])),
        {name: draw(arrays(dtype, draw(hnp.array_shapes(min_dims=0, min_side=0)))) for name, dtype in saved.items()},
        {name: dtype for name, dtype in stored.items() if dtype != "F32"},
    )
