"""Known answers for ``unilora_spec/vectors``: ``python -m conformance_tests.vectors`` writes them, from the oracle.

Each case is a request of PROTOCOL.md with its answer, so that any language can replay them with a JSON parser and base64.
"""

import argparse
import json
from pathlib import Path

import unilora_spec
from unilora_spec.command import run as run_command
from unilora_spec.serialization import replacing

from . import hostile
from .boundaries import LINES
from .judge import packed
from .oracle import arithmetic, family, files
from .oracle.kinds import LAYERED, PROGRAMS

FOLDER = Path(unilora_spec.__file__).parent / "vectors"
LARGEST_FILE = 4000  # bytes of a hostile file; longer ones are the suite's alone
LARGEST_BOUNDARY, OF_A_LINE = 1200, 2500  # characters of a case of boundaries/, and of those of one line

NOTES = {
    "edge": "At a limit, or where one more or less changes the way.",
    "large": "Numbers above 32 bits: arithmetic of 32 bits, or of doubles where SPEC 1.4 says no, shows here.",
    "invalid": "To be refused.",
    "optional": "Of a kind that an implementation may lack; then rule 9.1 refuses it.",
}


def vector(rule, comment, request, answer=None, refused=None, flags=(), **fields) -> dict:
    """A case without its id; ``fields`` are the request's, arrays as lists of numbers."""
    case = {"rule": rule, "comment": comment, "flags": [*flags, *(["invalid"] if refused else [])]}
    case["request"] = {"request": request, **packed(fields)}
    return case | ({"refused": refused} if refused else {"answer": packed(answer)})


def projection(kind, d, D, seed=42):
    return {"kind": kind, "seed": str(seed), "d": d, "D": D}


TABLE = [7, 0, 8, 8, 1, 2, 0, 3, 3, 3, 4, 5, 8, 1, 0, 5, 8, 7, 2, 0]
"""Twenty rows of the kind `table` with d = 9; column 6 is empty."""


def limits():
    for d, D in ((0, 5), (6, 5), (2**31, 2**32), (1, 2**40 + 1), (0, 0)):
        p = projection("balanced", d, D)
        yield vector("1.1", f"d = {d}, D = {D}", "index", refused=["1.1"], projection=p, start=0, stop=0)
    yield vector("1.2", "a seed of 2^64", "keys", refused=["1.2"], seed=str(2**64))
    p = projection("balanced", 2, 5)
    for start, stop in ((0, 6), (5, 4), (6, 6)):
        yield vector(
            "1.3", f"rows [{start}, {stop}) of 5", "index", refused=["1.3"], projection=p, start=start, stop=stop
        )
    yield vector(
        "1.3", "a theta of 3 with d = 2", "expand", refused=["1.3"], projection=p, theta=[1, 2, 3], start=0, stop=5
    )
    yield vector("1.3", "π(D)", "permutation", refused=["1.3"], seed="42", D=5, x=[5])


def keys():
    for seed in (0, 1, 42, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1):
        flags = ("large",) if seed >= 2**32 else ()
        yield vector(
            "2.2", f"the ten keys of seed {seed}", "keys", {"keys": arithmetic.keys(seed)}, seed=str(seed), flags=flags
        )


def mixing():
    words = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFF0000, 0xFFFFFFFF, 0x12345678, 0xDEADBEEF]
    for key in (0, 1, 0x80000000, 0xFFFFFFFF, arithmetic.keys(42)[0]):
        mixed = [arithmetic.mix(word, key) for word in words]
        yield vector("3.1", f"with the key {key:08X}", "mix", {"mixed": mixed}, words=words, key=key)


def balanced():
    for D in (1, 2, 3, 4, 5, 10, 16, 17, 99, 100, 101):
        y = [arithmetic.walk(D, 42, x)[-1] for x in range(D)]
        rule = "4.2" if arithmetic.side(D) ** 2 == D else "4.3"
        yield vector(
            rule, f"all of π, D = {D}", "permutation", {"y": y}, seed="42", D=D, x=list(range(D)), flags=("edge",)
        )
        x = [arithmetic.inverse(D, 42, y) for y in range(D)]
        yield vector(
            "4.4", f"all of π⁻¹, D = {D}", "inverse", {"x": x}, seed="42", D=D, y=list(range(D)), flags=("edge",)
        )
    for D in (2**20 + 1, 46341**2, 2**31, 2**32 + 1, (2**20 - 1) ** 2 + 1, 2**40 - 1, 2**40):
        x = [0, 1, D // 2, D - 2, D - 1]
        for seed in (0, 42, 2**64 - 1):
            y = [arithmetic.walk(D, seed, value)[-1] for value in x]
            comment = f"D = {D}, seed {seed}"
            yield vector("4.3", f"π, {comment}", "permutation", {"y": y}, seed=str(seed), D=D, x=x, flags=("large",))
            yield vector("4.4", f"π⁻¹, {comment}", "inverse", {"x": x}, seed=str(seed), D=D, y=y, flags=("large",))
    for d, D in ((1, 1), (1, 7), (7, 7), (4, 10), (5, 10), (3, 10), (5760, 36864), (2**31 - 1, 2**40), (1000, 2**40)):
        p, flags = projection("balanced", d, D), ("large",) if D > 2**32 else ()
        for start, stop in ((0, min(D, 12)), (max(D - 12, 0), D)):
            index = [arithmetic.index("balanced", D, d, 42, i) for i in range(start, stop)]
            comment = f"rows [{start}, {stop}), d = {d}, D = {D}"
            yield vector("4.5", comment, "index", {"index": index}, projection=p, start=start, stop=stop, flags=flags)
        if D // d < 1000:
            for j in {0, D % d, d - 1}:
                members = arithmetic.members("balanced", D, d, 42, j)
                expected = {"counts": [len(members)], "members": members}
                comment = f"column {j}, d = {d}, D = {D}"
                yield vector("4.6", comment, "members", expected, projection=p, start=j, stop=j + 1, flags=flags)


def just_below():
    """Rows i and numbers d with h·d so little below a multiple of 2^32 that a float64 would reach it."""
    for i in range(1000):
        h = arithmetic.index("uniform", 2**40, 2**32, 42, i)
        if h % 2 and h >= 2**31:
            d = -pow(h, -1, 2**32) % 2**32
            if 2**30 <= d < 2**31:
                yield i, d


def uniform():
    for d, D, start in (
        (4, 10, 0),
        (1, 5, 0),
        (40, 40, 0),
        (1000, 2**40, 2**32 - 6),
        (2**31 - 1, 2**40, 2**40 - 12),
        (1000, 2**33, 0),
    ):
        stop = min(start + 12, D)
        index = [arithmetic.index("uniform", D, d, 42, i) for i in range(start, stop)]
        fields = {"projection": projection("uniform", d, D), "start": start, "stop": stop}
        flags = ("large",) if D > 2**32 else ()
        yield vector(
            "5.1", f"rows [{start}, {stop}), d = {d}, D = {D}", "index", {"index": index}, flags=flags, **fields
        )
    i, d = next(just_below())
    fields = {"projection": projection("uniform", d, 2**40), "start": i, "stop": i + 1}
    index = [arithmetic.index("uniform", 2**40, d, 42, i)]
    yield vector(
        "5.3", "h·d is just below a multiple of 2^32", "index", {"index": index}, flags=("large", "edge"), **fields
    )
    p = projection("uniform", 40, 40, 3)
    columns = [arithmetic.members("uniform", 40, 40, 3, j) for j in range(40)]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    yield vector(
        "5.2", "columns with no row among them", "members", expected, projection=p, start=0, stop=40, flags=("edge",)
    )
    scale = [arithmetic.scale(len(column)) for column in columns]
    yield vector(
        "5.2", "and their scale, 0", "scale", {"scale": scale}, projection=p, start=0, stop=40, flags=("edge",)
    )


def values():
    for D in (1, 2, 3, 5, 7, 11, 1000, 12345, 2**20 + 1, 2**24 + 1, 2**31 - 1):
        p = projection("balanced", 1, D)
        comment = f"n_0 = {D}"
        yield vector("6.1", comment, "scale", {"scale": [arithmetic.scale(D)]}, projection=p, start=0, stop=1)
    special = [0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1.1754942106924411e-38, 3.4028234663852886e38, 1.0, -0.1]
    special = [arithmetic.f32(x) for x in special]
    for kind, D in (("balanced", 20), ("uniform", 20), ("identity", 9), ("table", 20)):
        p = projection(kind, 9, D)
        if kind == "table":
            p["index"] = TABLE
        theta_D = arithmetic.expand(*family.of(p), special)
        optional = ("optional",) if kind == "table" else ()
        comment = f"{kind}: both zeros, numbers below the normal range, the largest"
        yield vector(
            "6.2",
            comment,
            "expand",
            {"theta_D": theta_D},
            projection=p,
            theta=special,
            start=0,
            stop=D,
            flags=("edge", *optional),
        )
        g = [float(i - 8) for i in range(D)]  # whole numbers: their sums are exact in any order and in float32
        theta = [arithmetic.f32(x) for x in arithmetic.adjoint(*family.of(p), g)[0]]
        fields = {"projection": p, "g": g, "start": 0, "stop": D}
        yield vector("6.3", f"{kind}: sums that are exact", "adjoint", {"theta": theta}, flags=optional, **fields)
    p = projection("balanced", 9, 2**40)
    theta_D = arithmetic.expand("balanced", 2**40, 9, 42, special, 2**40 - 12, 2**40)
    fields = {"projection": p, "theta": special, "start": 2**40 - 12, "stop": 2**40}
    yield vector("6.2", "the last rows of D = 2^40", "expand", {"theta_D": theta_D}, flags=("large",), **fields)
    for bound in (0.02, 1.0, 1e-3):
        theta = [arithmetic.f32(arithmetic.start(42, j) * bound) for j in range(16)]
        p = projection("balanced", 16, 100)
        yield vector("6.4", f"with the bound {bound}", "initial", {"theta": theta}, projection=p, bound=bound)


def hostile_files(chapters):
    for case in hostile.CASES:
        first = min(case.rules, key=lambda rule: [int(n) for n in rule.split(".")][::-1])
        own = case.flag == "layer map"
        if own == ("7" in chapters) and len(case.file) <= LARGEST_FILE:
            refused = sorted(case.rules)
            yield vector(first, case.name, "read", refused=refused, file=case.file, flags=(case.flag,))


def layer_map():
    yield from hostile_files("7")
    tensors = {"theta": {"dtype": "F32", "shape": [2], "values": [1.0, -0.5]}}
    for case, names in hostile.FOLDINGS.items():
        segments = [{"name": name, "out": 1, "in": 1, "rank": 1} for name in names]
        text = hostile.text_of(segments)
        file = files.write(text, {"theta": ("F32", [2], [1.0, -0.5])})
        yield vector("7.9", f"folding: {case}", "write", {"file": file}, description=text, tensors=tensors)
    yield from delta_weights()


def small(rank, scaling="lora", **segment):
    """An adapter whose products are exact in float32, in any order: small whole numbers."""
    layers = [{"name": "w", "out": 2, "in": 3, "rank": rank, **segment}]
    D = files.size(layers[0])
    text = {"projection": projection("identity", D, D), "alpha": 2 * (rank or 1), "layers": layers, "scaling": scaling}
    theta = [float(i % 7 - 3) for i in range(D)]
    return text, theta, files.write(text, {"theta": ("F32", [D], theta)})


def delta_weights():
    for rank in (0, 1, 2):
        text, theta, file = small(rank)
        s = files.factor_scale(text, text["layers"][0])
        A, B = (theta[: 3 * rank], theta[3 * rank :]) if rank else ([], [])
        product = [sum(B[o * rank + r] * A[r * 3 + i] for r in range(rank)) for o in range(2) for i in range(3)]
        delta = files.delta(s, product if rank else theta)
        expected = {"A": A, "B": B, "delta": delta}
        yield vector("7.7", f"rank {rank}, whole numbers", "delta_weight", expected, file=file, segment=0)
        weights = {"w": {"shape": [2, 3], "values": [1.0] * 6}}
        merged = {"w": {"shape": [2, 3], "values": [1.0 + x for x in delta]}}
        yield vector(
            "7.10", f"rank {rank}", "merge", {"weights": merged, "same_contents": None}, file=file, weights=weights
        )
        _, _, file = small(rank, transposed=True)
        turned = {"w": {"shape": [3, 2], "values": [1.0 + delta[o * 3 + i] for i in range(3) for o in range(2)]}}
        weights = {"w": {"shape": [3, 2], "values": [1.0] * 6}}
        yield vector("7.3", f"rank {rank}, stored (in, out)", "merge", {"weights": turned}, file=file, weights=weights)


def file():
    tensors = files.as_protocol(hostile.TENSORS)
    yield vector(
        "8.7", "the file of SPEC.md", "write", {"file": hostile.TINY}, description=hostile.TEXT, tensors=tensors
    )
    answer = {"description": files.describe(hostile.TEXT), "tensors": tensors, "canonical": True}
    yield vector("8.7", "the file of SPEC.md", "read", answer, file=hostile.TINY)
    for case in hostile.SOUND:
        if len(case.file) <= LARGEST_FILE and "segments" not in case.name:
            yield vector(
                "8.10",
                f"sound: {case.name}",
                "read",
                {"description": hostile.description_of(case)},
                file=case.file,
                flags=("edge",),
            )
    yield from hostile_files("8")


def tables():
    p = projection("table", 9, 20) | {"index": TABLE}
    fields = {"projection": p, "flags": ("optional",)}
    yield vector("9.4", "a part of the rows", "index", {"index": TABLE[5:12]}, start=5, stop=12, **fields)
    columns = [arithmetic.members(*family.of(p), j) for j in range(9)]
    expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
    yield vector("9.4", "columns, one without a row", "members", expected, start=0, stop=9, **fields)
    scale = [arithmetic.scale(len(column)) for column in columns]
    yield vector("9.4", "and their scale, 0", "scale", {"scale": scale}, start=0, stop=9, **fields)
    for comment, index in (
        ("a number above d - 1", [0, 1, 0, 1, 2]),
        ("a negative number", [0, -1, 0, 0, 0]),
        ("4 of 5", [0] * 4),
    ):
        p = projection("table", 2, 5) | {"index": index}
        fields = {"projection": p, "start": 0, "stop": 5, "flags": ("optional",)}
        yield vector("9.4", comment, "index", refused=["9.4"], **fields)
    tensors = files.as_protocol(hostile.TABLE_TENSORS)
    file = files.write(hostile.TABLE, hostile.TABLE_TENSORS)
    answer = {"description": files.describe(hostile.TABLE), "tensors": tensors, "canonical": True}
    yield vector("9.4", "a file with a table", "read", answer, file=file, flags=("optional",))
    written = {"description": hostile.TABLE, "tensors": tensors, "flags": ("optional",)}
    yield vector("9.4", "the same, written", "write", {"file": file}, **written)


def kinds():
    for kind in ("lora-fa", "Balanced", ""):
        p = projection(kind, 2, 5)
        yield vector("9.1", f"the kind {kind!r}", "index", refused=["9.1"], projection=p, start=0, stop=5)
    p = projection("identity", 4, 5)
    yield vector("9.2", "d below D", "index", refused=["9.2"], projection=p, start=0, stop=5)
    layers = [
        {"name": name, "out": out, "in": columns, "rank": rank}
        for name, out, columns, rank in (("u", 2, 2, 0), ("v", 2, 3, 2), ("w", 1, 16, 1))
    ]
    theta = []
    for s in layers:
        A = range(len(theta), len(theta) + s["rank"] * s["in"])
        theta += [arithmetic.f32(arithmetic.start(42, j) * (1 / s["in"] ** 0.5)) for j in A]
        theta += [0.0] * (files.size(s) - len(A))
    p = projection("identity", len(theta), len(theta))
    expected = {"theta": theta}
    yield vector("9.2", "A as LoRA's, B and rank 0 zero", "initial", expected, projection=p, bound=0.02, layers=layers)
    yield from tables()


def base():
    weights = {
        "w": {"shape": [2, 3], "values": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]},
        "é": {"shape": [1, 2, 1], "values": [-0.0, 2.0**-149]},
    }
    plain = {name: (weight["shape"], weight["values"]) for name, weight in weights.items()}
    layers = [{"name": "é", "out": 1, "in": 2, "rank": 1}, {"name": "w", "out": 2, "in": 3, "rank": 1}]
    structure, contents = files.fingerprints(layers, plain)
    expected = {"structure": structure, "contents": contents}
    yield vector(
        "10.1", "two weights, one of them of three dimensions", "fingerprints", expected, layers=layers, weights=weights
    )
    w = {"shape": [2, 3], "values": [1.0] * 6}
    for comment, given in (
        ("the weight is missing", {"b": {"shape": [1], "values": [0.0]}}),
        ("the weight is turned", {"w": w | {"shape": [3, 2]}, "b": {"shape": [1], "values": [0.0]}}),
        ("the saved parameter is missing", {"w": w}),
        ("the saved parameter has another shape", {"w": w, "b": {"shape": [1, 1], "values": [0.0]}}),
    ):
        yield vector("10.3", comment, "merge", refused=["10.3"], file=hostile.TINY, weights=given)


FAMILY = [
    {"name": f"layer.{n}.{name}", **sizes}
    for n in range(2)
    for name, sizes in (("q", {"out": 3, "in": 4, "rank": 2}), ("v", {"out": 2, "in": 3, "rank": 1}))
]
"""Two layers of two weights, which differ in every size."""


def whole_numbers(length):
    return [float(5 * i % 7 - 3) for i in range(length)]


def layered(kind):
    """The projection of a kind that knows the layer map, with the most that tests draw of its own numbers, and the segments."""
    of_kind = LAYERED[kind]
    numbers = {name: most for name, (_, most) in of_kind.OPTIONS.items()}
    segments = of_kind.fitting(numbers, FAMILY) if hasattr(of_kind, "fitting") else FAMILY
    p = projection(kind, 0, sum(map(files.size, segments))) | numbers
    if hasattr(of_kind, "dim"):
        p["d"] = of_kind.dim(p, segments)
    else:
        possible = of_kind.dims(p, segments)
        p["d"] = possible[len(possible) // 2]
    for name, (dtype, length, end) in of_kind.own(p, segments).items() if hasattr(of_kind, "own") else ():
        p[name] = [5 * i % end for i in range(length)] if dtype == "I32" else whole_numbers(length)
    return p | {"layers": files.fold(segments)}, segments


def family_kinds():
    """Of products of matrices, and of gradients, what is exact in any order: whole numbers that come of whole numbers."""
    for kind, of_kind in sorted(LAYERED.items(), key=lambda item: int(item[1].RULE.removeprefix("11."))):
        (p, segments), rule = layered(kind), of_kind.RULE
        fields, rows = {"projection": p, "flags": ("optional",)}, {"start": 0, "stop": p["D"]}
        if kind not in PROGRAMS:
            index = of_kind.index(p, segments)
            yield vector(rule, f"{kind}: all rows", "index", {"index": index}, **rows, **fields)
            columns = [[i for i in range(p["D"]) if index[i] == j] for j in range(p["d"])]
            expected = {"counts": list(map(len, columns)), "members": [i for column in columns for i in column]}
            yield vector(rule, f"{kind}: all columns", "members", expected, start=0, stop=p["d"], **fields)
            if hasattr(of_kind, "start"):
                answer = {"theta": of_kind.start(p, segments, 0.02)}
                yield vector(rule, f"{kind}: the start", "initial", answer, bound=0.02, **fields)
            for wrong in of_kind.wrong(p, segments)[:2]:
                fields |= {"projection": wrong, "start": 0, "stop": 1}
                yield vector(rule, f"{kind}: to be refused", "index", refused=[rule], **fields)
            continue
        theta = whole_numbers(p["d"])
        thirds = [arithmetic.f32(x / 3) for x in theta] if of_kind.EXACT else theta
        theta_D, _ = family.expand(p, thirds)
        if of_kind.EXACT or all(map(float.is_integer, theta_D)):
            yield vector(rule, f"{kind}: all of θ_D", "expand", {"theta_D": theta_D}, theta=thirds, **rows, **fields)
        g = whole_numbers(p["D"])
        gradient, _ = family.adjoint(p, theta, g)
        if all(map(float.is_integer, gradient)):
            yield vector(
                rule, f"{kind}: sums that are exact", "adjoint", {"theta": gradient}, theta=theta, g=g, **rows, **fields
            )
        start = of_kind.start(p, segments)
        yield vector(rule, f"{kind}: the start", "initial", {"theta": start}, bound=0.02, **fields)
        for wrong in of_kind.wrong(p, segments) if hasattr(of_kind, "wrong") else ():
            fields |= {"projection": wrong}
            yield vector(rule, f"{kind}: to be refused", "expand", refused=[rule], theta=theta, **rows, **fields)


FILES = {
    "1-limits": limits, "2-keys": keys, "3-mixing": mixing, "4-balanced": balanced, "5-uniform": uniform, "6-values": values,
    "7-layer-map": layer_map, "8-file": file, "9-kinds": kinds, "10-base": base,
    "11-family": family_kinds,
}  # fmt: skip


def boundaries(chapter):
    """Of each line of boundaries/ as many inputs as fit, evenly spread: all of them are the suite's alone."""
    for line in LINES:
        if line.rules[0].split(".")[0] != chapter:
            continue
        flags = ("edge",) if line.limit else ("large",) if line.of else ("edge",)
        flags += ("optional",) if line.kind not in (None, "balanced", "uniform", "identity") else ()
        cases = [
            vector(
                line.rules[0],
                f"{line.what}: {each.name}",
                line.asks,
                each.answer,
                sorted(each.refused),
                flags,
                **each.fields,
            )
            for each in line.inputs()
        ]
        sizes = [(len(json.dumps(case, ensure_ascii=False)), case) for case in cases]
        short = [(size, case) for size, case in sizes if size <= LARGEST_BOUNDARY]
        step = -(-sum(size for size, _ in short) // OF_A_LINE) or 1
        yield from (case for _, case in short[::step])


def _slug(case):
    return case["request"]["request"].replace("_", "-")


def texts() -> dict[str, str]:
    """The files by name, each a line for each case."""
    result = {}
    for name, cases in FILES.items():
        chapter = name.split("-")[0]
        every = enumerate([*cases(), *boundaries(chapter)])
        cases = [{"id": f"{_slug(case)}-{number}", **case} for number, case in every]
        notes = {flag: (NOTES | hostile.FLAGS)[flag] for case in cases for flag in case["flags"]}
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        head = json.dumps({"specification": "1", "chapter": chapter, "notes": notes}, ensure_ascii=False, indent=1)
        result[f"{name}.json"] = f'{head[:-2]},\n "cases": [\n{lines}\n]}}\n'
    return result


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m conformance_tests.vectors",
        description=f"Writes the known answers into {FOLDER.name}, from the oracle.",
    ).parse_args()
    for name, text in texts().items():
        with replacing(FOLDER / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"{name}: {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    run_command(main)
