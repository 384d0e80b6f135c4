"""SPEC.md is true: every worked example is printed again here, and every rule that the code names is in the text."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

import unilora_spec
from conformance_tests.oracle import arithmetic, files, kinds
from conformance_tests.oracle.family import Rounded
from conformance_tests.oracle.kinds import fastfood as of_fastfood
from conformance_tests.oracle.kinds import tiny as of_tiny
from unilora_spec import Adapter, LayerMap, Projection, Segment, contents_fingerprint, structure_fingerprint
from unilora_spec.canonical_json import encode as to_json
from unilora_spec.compact_form import fold_runs, fold_stacks
from unilora_spec.serialization import encode

PACKAGE = Path(unilora_spec.__file__).parent
SPEC = (PACKAGE / "SPEC.md").read_text()
BLOCKS = dict(re.findall(r"^```(\S+)\n(.*?)^```$", SPEC, re.MULTILINE | re.DOTALL))

TINY_MAP = LayerMap([Segment("w", out_features=2, in_features=3, rank=1)], alpha=1)
TINY = Adapter(
    Projection(kind="balanced", D=5, d=2, seed=42),
    TINY_MAP,
    np.array([1, -0.5], np.float32),
    saved={"b": np.array([0.25], np.float32)},
    dtypes={"saved.b": "BF16"},
)
FOLDING = [
    *(Segment(f"layer.{i}.{name}.weight", 8, 8, 2) for i in range(2) for name in "qv"),
    *(Segment("experts.w", 6, 4, 1, index=i) for i in range(3)),
]


def bits(x):
    return f"{int(np.float32(x).view(np.uint32)):08X}"


def keys():
    yield "seed                  z_0               K_0         K_1         K_2         K_3"
    for seed in (0, 42, 2**64 - 1):
        numbers = "  ".join(f"{k:>10}" for k in arithmetic.keys(seed)[:4])
        yield f"{seed:<20}  {arithmetic.splitmix(seed, 1)[0]:016X}  {numbers}"
    yield "seed 42, K_4 to K_9: " + ", ".join(map(str, arithmetic.keys(42)[4:]))


def mix():
    yield "x         k         x ^ k     ^ >> 16   · c1      ^ >> 15   · c2      ^ >> 16"
    for x, k in ((0, 0), (1, 0), (0, arithmetic.keys(42)[0]), (2, arithmetic.keys(42)[0])):
        yield "  ".join(f"{v:08X}" for v in (x, k, *arithmetic.mix_steps(x, k)))


def rounds():
    for x in (0, 4, 10, 14):
        yield f"x = {x}: L = {x // 4}, R = {x % 4}"
        for t, R, m, f, L, new in arithmetic.rounds(10, 42, x):
            yield f"  t = {t}: mix({R}, K_{t}) = {m:>10}, f = {f}, L = {L}, R = {new}"
        yield f"  pass({x}) = 4·{L} + {new} = {4 * L + new}"


def permutation():
    yield "i           " + "  ".join(f"{i}" for i in range(10))
    yield "π(i)        " + "  ".join(f"{arithmetic.walk(10, 42, i)[-1]}" for i in range(10))
    columns = [arithmetic.index("balanced", 10, 4, 42, i) for i in range(10)]
    yield "index(i)    " + "  ".join(map(str, columns))
    for j in range(4):
        rows = [i for i, column in enumerate(columns) if column == j]
        yield f"members({j})  {', '.join(map(str, rows))}   n_{j} = {len(rows)}"


def large():
    numbers = ", ".join(str(arithmetic.index("balanced", 36864, 5760, 42, i)) for i in range(8))
    yield f"D = 36864, d = 5760, seed 42: index(0 … 7) = {numbers}"
    for i in (0, 1, 2**40 - 1):
        yield f"D = 2^40, seed 42: π({i}) = {arithmetic.walk(2**40, 42, i)[-1]}"


def uniform():
    yield "D = 10, d = 4, seed 42: index(0 … 9) = " + ", ".join(
        str(arithmetic.index("uniform", 10, 4, 42, i)) for i in range(10)
    )
    for i in (0, 2**32 - 1, 2**32, 2**40 - 1):
        yield f"D = 2^40, d = 1000, seed 42: index({i}) = {arithmetic.index('uniform', 2**40, 1000, 42, i)}"


def values():
    D, d, theta, g = 5, 2, [1.0, -0.5], [1.0, 2.0, 3.0, 4.0, 5.0]
    columns = [arithmetic.index("balanced", D, d, 42, i) for i in range(D)]
    scales = [arithmetic.scale(columns.count(j)) for j in range(d)]
    for j in range(d):
        yield f"n_{j} = {columns.count(j)}, scale_{j} = {scales[j]:.9g} = {bits(scales[j])}"
    for i, value in enumerate(arithmetic.expand("balanced", D, d, 42, theta)):
        yield f"θ_D[{i}] = θ[{columns[i]}]·scale_{columns[i]} = {value:.9g} = {bits(value)}"
    for j in range(d):
        total = sum(g[i] for i in range(D) if columns[i] == j)
        value = arithmetic.f32(scales[j] * total)
        yield f"(Pᵀg)_{j} = scale_{j}·{total:g} = {value:.9g} = {bits(value)}"


def start():
    k = arithmetic.keys(42)
    for j in range(4):
        m = arithmetic.mix(arithmetic.mix(j, k[8]), k[9])
        value = arithmetic.f32(arithmetic.start(42, j) * 0.02)
        yield f"j = {j}: mix(mix(j, K_8), K_9) = {m:>10}, θ_j = {value:.9g} = {bits(value)}"


def fold():
    def show(entries):
        return [f"  {to_json(entry).decode()}" for entry in entries]

    stacked = fold_stacks(FOLDING)
    yield from ("the segments:", *show(entry for segment in FOLDING for entry in fold_stacks([segment])))
    yield from ("after the stacks:", *show(stacked))
    yield from ("after the runs:", *show(fold_runs(stacked)))


def streams():
    h = ", ".join(str(arithmetic.hashed(42, 1, i)) for i in range(4))
    yield f"seed 42, h_1(0 … 3) = {h}"
    yield f"seed 42, u_1(0) = {arithmetic.uniform(42, 1, 0):.9g}, g_1(0) = {arithmetic.normal(42, 1, 0):.9g}"


def delta():
    D, d, theta = 6, 2, [1.0, -0.5]
    segment = {"name": "w", "out": 2, "in": 3, "rank": 0}
    s = files.factor_scale({"alpha": 0.7}, segment)
    theta_D = arithmetic.expand("balanced", D, d, 42, theta)
    yield f"s = float32(alpha) = {s:.9g} = {bits(s)}"
    for i, (value, entry) in enumerate(zip(theta_D, files.delta(s, theta_D), strict=True)):
        place = f"ΔW[{i // 3}, {i % 3}]"
        yield f"{place} = s·θ_D[{i}] = s·{value:>12.9g} = {entry:>12.9g} = {bits(entry)}"


def parts(p, segments, names, dims):
    """What the kinds of several parts show: each part, and the index."""
    index, keys, first = kinds.LAYERED[p["kind"]].index(p, segments), arithmetic.keys(42, 10 + 2 * len(dims)), 0
    for part, (name, d) in enumerate(zip(names, dims)):
        rows = sum(first <= column < first + d for column in index)
        seed = 2**32 * keys[10 + 2 * part] + keys[11 + 2 * part]
        yield f"{name}: D_{part} = {rows}, d_{part} = {d}, c_{part} = {first}, seed {seed}"
        first += d
    yield f"index(0 … {len(index) - 1}) = " + ", ".join(map(str, index))


def layerwise():
    segments = [{"name": name, "out": 1, "in": 2, "rank": 1} for name in ("a.0.q", "b", "a.1.q", "a.0.v")]
    p = {"kind": "layerwise", "seed": "42", "d": 7, "D": 12}
    yield "segments a.0.q, b, a.1.q and a.0.v, each with out 1, in 2 and rank 1; d = 7, seed 42"
    yield from parts(p, segments, ("layer a.0", "layer b", "layer a.1"), (3, 2, 2))


def fastfood():
    p, theta = {"kind": "fastfood", "seed": "42", "d": 3, "D": 10}, (1.0, -0.5, 0.25)
    for k in range(3):
        b, order, g = of_fastfood.frozen(42, 10, 3, k)
        yield f"block {k}: b = {', '.join(f'{x:g}' for x in b)}; π = {', '.join(map(str, order))}"
        yield "  g · S = " + ", ".join(f"{x:.9g}" for x in g)
        entries = of_fastfood.block(p, k, [Rounded(x) for x in theta], Rounded)[: 10 - 4 * k]
        yield f"  θ_D[{4 * k} …] = " + ", ".join(f"{x:.9g} = {bits(x)}" for x in entries)


def nonuniform():
    segments = [{"name": name, "out": 2, "in": 3, "rank": 1} for name in "ab"]
    p = {"kind": "nonuniform", "seed": "42", "d": 5, "D": 10, "of_A": 1, "of_B": 2}
    yield "segments a and b, each with out 2, in 3 and rank 1; of_A = 1, of_B = 2, d = 5, seed 42"
    yield from parts(p, segments, ("all A", "all B"), (1, 4))


def chain():
    segments = [{"name": "a", "out": 2, "in": 2, "rank": 2}]
    p = {"kind": "chain", "seed": "42", "d": 4, "D": 8, "links": 2}
    yield "segment a with out 2, in 2 and rank 2; links = 2, d = 4, seed 42"
    yield from parts(p, segments, ("link 0", "link 1"), (2, 2))


def tiny():
    segments = [{"name": name, "out": 2, "in": 2, "rank": 2} for name in "ab"]
    p, theta = {"kind": "tiny", "seed": "42", "u": 3, "groups": 1}, (1.0, -0.5, 0.25)
    yield "segments a and b, each with out 2, in 2 and rank 2; u = 3, groups = 1, seed 42, θ = (1, −0.5, 0.25)"
    R = list(of_tiny.R_of_all(p, segments, theta, float))
    for k, segment in enumerate(segments):
        for i in range(3):
            P = (of_tiny.random(p, 12 * k + 4 * i + entry, 2) for entry in range(4))
            yield f"P_{i + 1} of {segment['name']} = " + ", ".join(f"{x:.9g} = {bits(x)}" for x in P)
        yield f"R of {segment['name']} = " + ", ".join(f"{x:.6g}" for x in R[4 * k : 4 * k + 4])


def table():
    D, d, theta, index = 5, 3, [1.0, -0.5, 7.0], [0, 1, 1, 0, 1]
    yield "index in the file: " + files.stored(index, "I32").hex(" ", 4)
    columns = [arithmetic.members("table", D, d, index, j) for j in range(d)]
    for j, rows in enumerate(columns):
        yield f"members({j})  {', '.join(map(str, rows))}   n_{j} = {len(rows)}"
    for i, value in enumerate(arithmetic.expand("table", D, d, index, theta)):
        yield f"θ_D[{i}] = θ[{index[i]}]·scale_{index[i]} = {value:.9g} = {bits(value)}"


def file():
    data = encode(TINY)
    for i in range(0, len(data), 16):
        row = data[i : i + 16]
        yield f"{i:04x}  {row.hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"


def fingerprints():
    listing = to_json([["w", [2, 3]]]).decode()
    yield f"structure: SHA-256 of {listing} begins {structure_fingerprint({'w': (2, 3)})}"
    weight = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    yield f"contents: SHA-256 of {weight.tobytes().hex()}"
    yield f"          begins {contents_fingerprint(['w'], lambda name: weight)}"


def rest():
    tensors = {"l.0.b": [1, -0.5], "l.1.b": [0.1, 2.0**-20], "s": 3}
    whole = unilora_spec.rest.fingerprint(unilora_spec.rest.of_arrays({n: np.float32(v) for n, v in tensors.items()}))
    for name in ("l.0.b", "s"):
        key = hashlib.sha256(name.encode()).hexdigest()[:8]
        contents = whole[whole.index(key) + 8 :][:8]
        yield f"group {name}: {key}, BF16 {contents[:4]}, F16 {contents[4:]}"
    short = files.rounded(float(np.float32(0.1)), "BF16")
    values = [np.float32([1, -0.5]).tobytes().hex(), np.float32([short, 0]).tobytes().hex()]
    yield f"BF16 of l.0.b: SHA-256 of the text [2], {values[0]}, the text [2], {values[1]}"
    yield f"base.rest: {whole}"


EXAMPLES = [
    keys, mix, rounds, permutation, large, uniform, values, start, delta, fold, file, table, fingerprints, rest, streams,
    layerwise, fastfood, nonuniform, chain, tiny,
]  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_example(example):
    assert BLOCKS[example.__name__] == "".join(f"{line.rstrip()}\n" for line in example())


def test_every_block_is_an_example():
    assert set(BLOCKS) == {example.__name__ for example in EXAMPLES}


def test_rules():
    stated = re.findall(r"^\*\*(\d+\.\d+)\*\*", SPEC, re.MULTILINE)
    assert stated == sorted(set(stated), key=lambda rule: [int(n) for n in rule.split(".")])
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = re.findall(r'"(\d+\.\d+)"', code)
    for quoted in re.findall(r"SPEC ([\d., to]*\d)", code):
        named += re.findall(r"\d+\.\d+", quoted)
    assert len(set(named)) > 25 and set(named) <= set(stated)


def test_fold_example_is_a_layer_map():
    assert LayerMap.from_json(LayerMap(FOLDING).to_json(), 1).segments == tuple(FOLDING)
