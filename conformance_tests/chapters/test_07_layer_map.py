"""SPEC chapter 7: segments, their compact form, delta weights and merging."""

import copy
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from conformance_tests import hostile
from conformance_tests.hostile import FOLDINGS
from conformance_tests.judge import differs
from conformance_tests.oracle import family, files
from conformance_tests.rules import check
from conformance_tests.spelling import canonical, descriptions, rounded
from conformance_tests.strategies import adapters, alphas, layer_maps, moderate, seeds, segments_of

LAYER_MAPS = [case for case in hostile.CASES if case.flag == "layer map"]


def rules_of(cases):
    """A mark for each case with the rules that refuse it."""
    return [pytest.param(case, marks=check(*sorted(case.rules), needs="read"), id=case.name) for case in cases]


@pytest.mark.parametrize("case", rules_of(LAYER_MAPS))
def test_refused(judge, case):
    """A layer map that contradicts itself or the limits is refused."""
    judge.refuses(set(case.rules), "read", file=case.file)


@check("7.1", "7.2", "7.8", needs="read")
@given(st.data())
def test_sizes(judge, data):
    """D is the sum of r · (in + out): one more or less is refused."""
    segments = data.draw(layer_maps())
    scale = data.draw(st.sampled_from([1, 2**10, 2**17]))
    segments = [{**s, "in": s["in"] * scale} for s in segments]
    assume(sum(map(files.size, segments)) > 2)

    def ask(wrong):
        text = hostile.text_of(segments, wrong)
        file = files.write(text, hostile.TENSORS)
        if wrong:
            judge.refuses("8.8", "read", file=file)
        else:
            judge.gives({"description": files.describe(text)}, "read", file=file)

    judge.each((-1, 0, 1), ask)


@check("7.6", needs="read")
@given(st.data())
def test_overlaps(judge, data):
    """Segments of one weight that cover an entry twice, or disagree about its form, are refused wherever they stand."""
    segments, others = data.draw(segments_of("w")), data.draw(segments_of("v"))
    again = copy.deepcopy(data.draw(st.sampled_from(segments)))
    change = data.draw(st.sampled_from(["none", "in", "transposed", "form", "rows"]))
    if change == "in":
        again |= {"in": again["in"] + 1} | ({"row": again["row"] + 100} if "row" in again else {})
    elif change == "transposed":
        again["transposed"] = not again.get("transposed", False)
    elif change == "form":
        again = again | {"index": 9} if "index" not in again else {k: v for k, v in again.items() if k != "index"}
    elif change == "rows" and "row" in again:
        again |= {"row": again["row"] + again["out"] - 1, "out": 7}
    mixed = data.draw(st.permutations([*segments, *others, again]))
    judge.refuses("7.6", "read", file=files.write(hostile.text_of(mixed), hostile.TENSORS))


@check("7.9", needs="write")
@given(st.data())
def test_folding(judge, data):
    """A writer folds stacks, then runs, in the one canonical way."""
    description, tensors = data.draw(adapters(judge.kinds))
    given_as = data.draw(descriptions(description))
    judge.gives({"file": canonical(description, tensors)}, "write", description=given_as, tensors=tensors)


@check("7.9", needs="write")
@pytest.mark.parametrize("case", FOLDINGS)
def test_folding_of_names(judge, case):
    """Names where a run begins, ends, or is none."""
    segments = [{"name": name, "out": 1, "in": 1, "rank": 1} for name in FOLDINGS[case]]
    folded(judge, segments)


def folded(judge, segments):
    text, tensors = hostile.text_of(segments), {"theta": {"dtype": "F32", "shape": [2], "values": [1.0, -0.5]}}
    judge.gives({"file": canonical(text, tensors)}, "write", description=text, tensors=tensors)


@check("7.9", needs="write")
def test_folding_of_stacks(judge):
    """An index that follows and all else the same makes a stack; a run repeats stacks as they are."""
    stacks = [
        [{"name": name, "out": 1, "in": 1, "rank": 1, "index": i} for name in names for i in indices]
        for indices in ([0, 1, 2], [0, 2, 3], [2, 1, 0], [5, 6, 0, 1])
        for names in (["w"], ["l.0.w", "l.1.w"])
    ]
    judge.each(stacks, lambda segments: folded(judge, segments))


# Delta weights and merging: numbers of moderate size, so that nothing overflows and the bounds are short.


@st.composite
def small_adapters(draw, kinds, **options):
    """Adapters whose theta is of moderate numbers in F32."""
    description, tensors = draw(adapters(kinds, **options))
    d = description["projection"]["d"]
    few = draw(st.lists(moderate, min_size=1, max_size=min(d, 12)))
    tensors["theta"] = {"dtype": "F32", "shape": [d], "values": np.resize(np.array(few, np.float32), d)}
    return description, tensors


def parts(description, tensors):
    """Each segment and its part of θ_D, by the oracle: the numbers in float64, and how far off each may be, 0 where its bits
    are fixed."""
    p = description["projection"] | {"layers": description["layers"]}
    p |= {name: files.numbers(tensors[name]) for name in ("index", "frozen") if name in tensors}
    theta_D = np.array(family.expand(p, tensors["theta"]["values"]))
    at = 0
    for s in description["layers"]:
        yield s, theta_D[:, at : at + files.size(s)]
        at += files.size(s)


def factors(s, part):
    """A and B of a segment, each with how far off it may be; of rank 0 they have no entries."""
    middle = s["rank"] * s["in"]
    A, B = (part[:, :middle], part[:, middle:]) if s["rank"] else (part[:, :0], part[:, :0])
    return A.reshape(2, s["rank"], s["in"]), B.reshape(2, s["out"], s["rank"])


def delta_weight(description, s, part):
    """ΔW in float64, and how far off float32 may be. With factors, r products and sums, s, and the product with s are each
    rounded with at most 2^-24, and twice that is allowed; 2^-126 covers what is below the normal range. What A and B
    themselves may be off comes on top. Of rank 0 not at all: such a segment has a kind whose bits are fixed."""
    scale = files.factor_scale(description, s)
    if s["rank"] == 0:
        delta = np.array(files.delta(scale, part[0])).reshape(s["out"], s["in"])
        return delta, np.zeros_like(delta)
    (A, of_A), (B, of_B) = factors(s, part)
    rounding = (s["rank"] + 2) * 2**-23 * scale * ((abs(B) + of_B) @ (abs(A) + of_A)) + 2.0**-126
    return scale * (B @ A), rounding + scale * (of_B @ abs(A) + abs(B) @ of_A + of_B @ of_A)


@check("7.2", "7.7", needs="delta_weight")
@given(st.data())
def test_delta_weight(judge, data):
    """A and B of a segment by their bits, A first, both row by row; ΔW = s·B·A within the rounding of its products. Of rank 0,
    ΔW by its bits."""
    description, tensors = data.draw(small_adapters(judge.kinds))
    k = data.draw(st.integers(0, len(description["layers"]) - 1))
    s, part = list(parts(description, tensors))[k]
    fields = {"file": canonical(description, tensors), "segment": k}
    answer = judge.ask("delta_weight", **fields)
    for name, (exact, bound) in zip("AB", factors(s, part)):
        if bound.any():
            judge.within(name, answer[name], exact, bound, "delta_weight", fields)
        elif fault := differs(name, answer.get(name, []), exact):
            judge.fail(fault, "delta_weight", fields)
    delta, bound = delta_weight(description, s, part)
    if s["rank"] == 0 and (fault := differs("delta", answer.get("delta", []), delta)):
        judge.fail(fault, "delta_weight", fields)
    judge.within("delta", answer["delta"], delta, bound, "delta_weight", fields)


@check("7.2", "7.7", needs="delta_weight")
@given(st.tuples(st.integers(2, 5), st.integers(2, 5)), alphas, st.sampled_from(["lora", "rslora"]))
def test_delta_weight_of_rank_0(judge, shape, alpha, scaling):
    """Row by row, s = float32(alpha) times numbers of which no two are the same; there is no A and B."""
    segments = [{"name": "v", "out": 1, "in": 2, "rank": 1}, {"name": "w", "out": shape[0], "in": shape[1], "rank": 0}]
    D = sum(map(files.size, segments))
    theta = np.linspace(-1, 2, D, dtype=np.float32)
    description = {
        "projection": {"kind": "identity", "seed": "0", "d": D, "D": D},
        "alpha": alpha,
        "layers": segments,
        "scaling": scaling,
    }
    tensors = {"theta": {"dtype": "F32", "shape": [D], "values": theta}}
    delta = files.delta(files.factor_scale(description, segments[1]), theta[3:].tolist())
    expected = {"A": [], "B": [], "delta": delta}
    judge.gives(expected, "delta_weight", file=canonical(description, tensors), segment=1)


@check("1.3", needs="delta_weight")
def test_no_such_segment(judge):
    """A segment that the layer map does not have is refused."""
    judge.each((1, 2**32, -1), lambda k: judge.refuses("1.3", "delta_weight", file=hostile.TINY, segment=k))


def base_of(draw, segments):
    """Weights that fit the segments, and one that nothing adapts: shape and numbers by name."""
    weights = {"not.adapted": [2, 2]}
    for name in {s["name"]: None for s in segments}:
        same = [s for s in segments if s["name"] == name]
        first = same[0]
        rows = max(s.get("row", 0) + s["out"] for s in same) + (draw(st.integers(0, 1)) if "row" in first else 0)
        shape = [rows, first["in"]]
        if first.get("transposed"):
            shape.reverse()
        elif "index" not in first and draw(st.booleans()):
            split = draw(st.sampled_from([k for k in range(1, first["in"] + 1) if first["in"] % k == 0]))
            shape = [rows, split, first["in"] // split]
        if "index" in first:
            shape.insert(0, max(s["index"] for s in same) + 1 + draw(st.integers(0, 1)))
        weights[name] = shape
    numbers = draw(st.lists(moderate, min_size=1, max_size=8))
    return {
        name: {"shape": shape, "values": np.resize(np.array(numbers, np.float32), math.prod(shape))}
        for name, shape in weights.items()
    }


def part_of(weight, s):
    """The view of a weight that a segment adapts, as (out, in) (SPEC 7.3 to 7.5)."""
    matrix = weight[s["index"]] if "index" in s else weight.reshape(weight.shape[0], -1)
    matrix = matrix.T if s.get("transposed") else matrix
    return matrix[s["row"] : s["row"] + s["out"]] if "row" in s else matrix


@check("7.3", "7.4", "7.5", "7.10", needs="merge")
@given(st.data())
def test_merge(judge, data):
    """ΔW is added to each segment's part and to nothing else, and saved parameters take their place."""
    description, tensors = data.draw(small_adapters(judge.kinds, base=st.none()))
    saved = {name.removeprefix("saved."): t for name, t in rounded(tensors).items() if name.startswith("saved.")}
    weights = base_of(data.draw, description["layers"])
    assume(not saved.keys() & weights.keys())
    before = {name: {"shape": t["shape"], "values": [3.0] * len(t["values"])} for name, t in saved.items()}
    fields = {"file": canonical(description, tensors), "weights": weights | before}
    answer = judge.gives({"same_contents": None}, "merge", **fields)
    merged = answer["weights"]
    if merged.keys() != fields["weights"].keys():
        judge.fail(
            f"weights has the names {sorted(merged)}, and must have {sorted(fields['weights'])}", "merge", fields
        )
    exact = {name: w["values"].astype(np.float64).reshape(w["shape"]) for name, w in weights.items()}
    bound = {name: np.zeros_like(values) for name, values in exact.items()}
    for s, part in parts(description, tensors):
        delta, error = delta_weight(description, s, part)
        part_of(exact[s["name"]], s)[...] += delta
        part_of(bound[s["name"]], s)[...] += error + 2**-23 * (abs(part_of(exact[s["name"]], s)) + abs(delta))
    for name, w in merged.items():
        if name in saved:
            exact[name], bound[name] = np.array(saved[name]["values"]), np.zeros(len(saved[name]["values"]))
        judge.within(f"weights: {name}", w["values"], exact[name], bound[name], "merge", fields)


@check("7.7", needs="delta_weight")
@given(st.data(), seeds)
def test_factor_scale(judge, data, seed):
    """s = float32(alpha / r), or float32(alpha / √r) with `rslora`, by its bits: B·A has a 1, the product of two ones, and else 0. Of
    rank 0, s = float32(alpha) with both, and ΔW is s·1."""
    rank = data.draw(st.integers(0, 6) | st.integers(7, 40))
    side = rank or 1
    alpha = data.draw(st.sampled_from([1e-4, 0.1, 1, 2**20]) | st.floats(1e-4, 2**20))
    D = 2 * rank * side or 1
    theta = np.zeros(D, np.float32)
    theta[0] = theta[rank * side] = 1  # the product of the first row of A and the first column of B, and of no others
    description = {
        "projection": {"kind": "identity", "seed": str(seed), "d": D, "D": D},
        "alpha": alpha,
        "layers": [{"name": "w", "out": side, "in": side, "rank": rank}],
        "scaling": data.draw(st.sampled_from(["lora", "rslora"])),
    }
    tensors = {"theta": {"dtype": "F32", "shape": [D], "values": theta}}
    scale = files.factor_scale(description, description["layers"][0])
    delta = [scale] + [0.0] * (side**2 - 1)
    judge.gives({"delta": delta}, "delta_weight", file=canonical(description, tensors), segment=0)
