"""What Hypothesis draws the tests' projections, layer maps and adapters from: those of the conformance tests, as objects."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conformance_tests import strategies as plain
from conformance_tests.oracle import files
from conformance_tests.oracle.kinds import LAYERED
from conformance_tests.rules import KINDS
from unilora_spec import Adapter, LayerMap, Projection
from unilora_spec.serialization import SAVED, parse


def examples(count):
    """Settings of every property here: the same examples on every run, and no limit on the time of one."""
    return settings(max_examples=count, derandomize=True, deadline=None)


OF_NUMBERS = [kind for kind in KINDS if kind not in LAYERED]
"""The kinds that need no layer map; of the others: test_family.py."""
seeds = plain.seeds
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
dtypes = st.sampled_from(["F32", "F16", "BF16"])


def projection(kind, D, d, seed=0):
    """One of any kind; with `table`, the columns from 0 to d − 2 in turn, if there are two."""
    tensors = {"index": np.arange(D) % max(d - 1, 1)} if kind == "table" else {}
    return Projection(kind, D=D, d=d, seed=seed, tensors=tensors)


@st.composite
def projections(draw, kinds=OF_NUMBERS, most=60):
    p = draw(plain.projections(draw(st.sampled_from(kinds)), st.integers(1, most)))
    tensors = {"index": p.pop("index")} if "index" in p else {}
    return Projection(**p | {"seed": int(p["seed"])}, tensors=tensors)


@st.composite
def layer_maps(draw):
    return LayerMap.from_json(draw(plain.layer_maps()), draw(plain.alphas), draw(st.sampled_from(["lora", "rslora"])))


@st.composite
def arrays(draw, dtype, shape):
    most = plain.MOST[dtype]
    return draw(hnp.arrays(np.float32, shape, elements=st.floats(-most, most, width=32)))


@st.composite
def adapters(draw):
    description, tensors = draw(plain.adapters(KINDS))
    projection, layer_map, base = parse(description, lambda name, dtype: np.array(files.numbers(tensors.pop(name))))
    values = {name: tensor["values"].reshape(tensor["shape"]) for name, tensor in tensors.items()}
    theta = values.pop("theta")
    saved = {name.removeprefix(SAVED): value for name, value in values.items()}
    dtypes = {name: tensor["dtype"] for name, tensor in tensors.items() if tensor["dtype"] != "F32"}
    return Adapter(projection, layer_map, theta, base, saved, dtypes)
