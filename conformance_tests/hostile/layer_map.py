"""The layer map (SPEC 7): how many segments it has, each segment, its rank, runs and stacks, and weights adapted twice."""

import json

from .case import described, refused
from .tiny import TEXT, metadata, size


def cases():
    W = TEXT["layers"][0]
    largest = TEXT["projection"] | {"d": 2**31 - 1, "D": 2**40}
    wide = [W | {"in": 2**39, "out": 2**39}]
    yield refused(
        "parts",
        "8.3 8.8",
        "the largest d",
        metadata(unilora=json.dumps(TEXT | {"projection": largest, "layers": wide})),
    )

    def layers(name, rules, entries):
        """D agrees with the entries where it can, so that nothing but the fault is refused."""
        try:
            D = sum(map(size, entries))
            D = D if 2 <= D <= 2**40 else 5
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            D = 5
        projection = TEXT["projection"] | {"D": D}
        return described("layer map", rules, name, lambda text: text | {"layers": entries, "projection": projection})

    yield layers("no segments", "7.1 1.1 8.8", [])
    too_many = "7.1 7.8"
    yield layers("65,537 segments in a stack", too_many, [W | {"index": [0, 65_537]}])
    yield layers("2^40 segments in a stack", too_many + " 1.1 8.8", [W | {"index": [0, 2**40]}])
    run = {"layers": [0, 65_537], "prefix": "", "segments": [W | {"name": ""}]}
    yield layers("65,537 segments in a run", too_many, [run])
    yield layers(
        "2^80 segments",
        too_many + " 1.1 8.8",
        [run | {"layers": [0, 2**40], "segments": [W | {"name": "", "index": [0, 2**40]}]}],
    )
    yield layers(
        "65,537 segments in two stacks", too_many, [W | {"index": [0, 32_768]}, W | {"index": [32_768, 65_537]}]
    )
    yield layers("4 MiB of names and more", "7.1", [run | {"layers": [0, 60_000], "prefix": "x" * 100}])
    wide = [run | {"layers": [0, 60_000], "prefix": "😀" + "x" * 12}]  # below 2^22 bytes of UTF-8
    yield layers("4 MiB of names and more, by characters beyond ASCII", "7.1", wide)
    segment = "7.2 7.8"
    for key in ("name", "out", "in", "rank"):
        yield layers(f"a segment without {key}", segment, [{k: v for k, v in W.items() if k != key}])
    for change in (
        {"name": ""}, {"name": "x" * 513}, {"name": "é" * 257}, {"name": 1}, {"out": 0}, {"in": 0}, {"rank": -1},
        {"rank": "1"}, {"rank": True}, {"out": 2**40}, {"in": 2**40}, {"transposed": 1}, {"transposed": "true"}, {"row": -1},
        {"row": 2**40}, {"row": True}, {"index": -1}, {"index": 2**40}, {"more": 1},
    ):  # fmt: skip
        shown = json.dumps(change, ensure_ascii=False)
        smaller = " 7.11" if 0 in change.values() else ""  # of no rows or columns, rank 1 is too much
        yield layers(f"a segment with {shown:.40}", segment + " 1.1 8.8" + smaller, [W | change])
    yield refused(
        "layer map",
        "7.2 7.8",
        "a rank with a point",
        metadata(unilora=json.dumps(TEXT | {"layers": [W | {"rank": 1.0}]})),
    )
    yield layers("an entry of text", "7.8", ["w"])
    yield layers("D above 2^40 by one segment", "1.1 8.8", [W | {"rank": 2**20, "in": 2**20, "out": 2**20}])
    square = {"rank": 2**40 - 1, "in": 2**40 - 1, "out": 2**40 - 1}
    yield layers("D above 2^64", "1.1 8.8", [W | square])
    yield layers("D of 5 modulo 2^64", "1.1 8.8", [W | {"rank": 2**31, "in": 2**32, "out": 2**32}, W | {"name": "v"}])
    direct = W | {"name": "v", "rank": 0}
    yield layers("D above 2^40 by one segment of rank 0", "1.1 8.8", [direct | {"in": 2**20, "out": 2**20 + 1}])
    yield layers("D above 2^64 by rank 0", "1.1 8.8", [direct | {"in": 2**40 - 1, "out": 2**40 - 1}])
    yield layers("D of 5 modulo 2^64 by rank 0", "1.1 8.8", [direct | {"in": 2**32, "out": 2**32}, W])
    rank = "7.11"
    yield layers("a rank above out", rank, [W | {"rank": 3}])
    yield layers("a rank above in", rank, [W | {"out": 3, "in": 2, "rank": 3}])
    yield layers(
        "a rank above the rows of a part", rank, [W | {"row": 0, "out": 9, "in": 9}, W | {"row": 9, "in": 9, "rank": 3}]
    )
    yield layers("a rank above out of a transposed weight", rank, [W | {"transposed": True, "rank": 3}])
    yield layers("a rank above out in a stack", rank, [W | {"index": [0, 2], "rank": 3}])
    yield layers(
        "a rank above out in a run", rank, [run | {"layers": [0, 2], "segments": [W | {"name": "", "rank": 3}]}]
    )
    yield layers("a rank of 2^22", rank, [W | {"out": 1, "in": 1, "rank": 2**22}])
    yield layers("rows of rank 0 that overlap others", "7.6", [W | {"row": 0}, direct | {"name": "w", "row": 1}])
    for name, change in {
        "a range of one": {"layers": [0, 1]}, "a range of none": {"layers": [0, 0]}, "a range backwards": {"layers": [2, 0]},
        "a range of one number": {"layers": [2]}, "a range of three numbers": {"layers": [0, 2, 4]}, "a negative range": {"layers": [-1, 1]},
        "a range beyond 2^40": {"layers": [2**40, 2**40 + 2]}, "a range of text": {"layers": ["0", "2"]}, "a range of truth": {"layers": [False, 2]},
        "a prefix of number": {"prefix": 1}, "a run without segments": {"segments": []}, "a run of no list": {"segments": {}},
        "a run in a run": {"segments": [run | {"layers": [0, 2]}]}, "an unknown field of a run": {"more": 1},
    }.items():  # fmt: skip
        yield layers(name, "7.2 7.8", [run | {"layers": [0, 2]} | change])
    for key in ("prefix", "layers"):
        yield layers(f"a run without {key}", "7.8", [{k: v for k, v in (run | {"layers": [0, 2]}).items() if k != key}])
    yield layers("an empty name", "7.2 7.8", [W | {"name": ""}])
    yield layers("a stack of one", "7.8", [W | {"index": [0, 1]}])
    yield layers("a stack backwards", "7.8", [W | {"index": [5, 0]}])
    two = "7.6"
    row = W | {"row": 0}
    yield layers("one weight twice", two, [W, W])
    yield layers("rows that overlap", two, [row, row | {"row": 1}])
    yield layers(
        "rows that overlap, in descending order", two, [row | {"row": 5, "out": 4}, row | {"row": 4, "out": 2}]
    )
    yield layers("rows inside of rows", two, [row | {"out": 9}, row | {"row": 3, "out": 1}])
    yield layers("rows that overlap, others between", two, [row, row | {"row": 4}, row | {"row": 1, "out": 1}])
    yield layers("one index twice", two, [W | {"index": 0}, W | {"index": 0}])
    yield layers("an index within a stack", two, [W | {"index": [0, 4]}, W | {"index": 3}])
    yield layers("other columns", two, [row, row | {"row": 2, "in": 4}])
    yield layers("stored one way and the other", two, [row, row | {"row": 2, "transposed": True}])
    yield layers("a part and the whole", two, [row, W])
    yield layers("an index and none", two, [W | {"index": 0}, W])
    yield layers("other rows at another index", two, [W | {"index": 0}, W | {"index": 1, "out": 3}])
    yield layers("a weight twice by a run", two, [run | {"layers": [0, 2], "segments": [W, W]}])
    yield layers("a weight twice by a run and alone", two, [run | {"layers": [0, 2]}, W | {"name": "1"}])
