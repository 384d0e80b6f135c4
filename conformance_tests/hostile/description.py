"""The description: its fields (SPEC 8.6), and limits and parts that contradict each other (1, 7.7, 8.8, 9)."""

import json

from .case import described, field, refused
from .tiny import BASE, TEXT, metadata


def cases():
    yield refused("description", "8.6", "a list for a description", metadata(unilora=json.dumps([TEXT])))
    for path, value in (
        ("more", 1), ("projection.more", 1), ("base", BASE | {"more": 1}), ("alpha", None), ("layers", None),
        ("projection.kind", None), ("projection.seed", None), ("projection.d", None), ("projection.D", None),
        ("projection", None), ("base", {"name": "b", "structure": "0" * 32}), ("base", {}), ("base", "b"),
        ("alpha", True), ("alpha", "1"), ("projection.seed", 42), ("projection.seed", "042"), ("projection.seed", "-1"),
        ("projection.seed", "+1"), ("projection.seed", " 1"), ("projection.seed", ""), ("projection.seed", "٤٢"),
        ("projection.seed", "0x2a"), ("projection.seed", "4_2"), ("projection.kind", 1), ("projection.d", "2"),
        ("projection.d", True), ("layers", {}), ("scaling", True), ("base", BASE | {"structure": "0" * 31}),
        ("base", BASE | {"structure": "0" * 33}), ("base", BASE | {"contents": "A" * 32}), ("base", BASE | {"name": 1}),
        ("base", BASE | {"labels": [1]}), ("base", BASE | {"labels": "x"}), ("base", BASE | {"architecture": 1}),
        ("base", BASE | {"problem_type": 1}), ("base", BASE | {"problem_type": "ranking"}), ("base", BASE | {"problem_type": ""}),
        ("base", BASE | {"rest": ["0" * 16]}), ("base", BASE | {"rest": "0" * 15}), ("base", BASE | {"rest": "A" * 16}),
    ):  # fmt: skip
        several = {"layers": "7.8 8.6", "projection.seed": "1.2 8.6", "alpha": "7.7 8.6", "scaling": "7.7 8.6"}
        rules = (several | {"projection.kind": "8.6 9.1"}).get(path, "8.6")
        shown = "no " + path if value is None else f"{path} = {json.dumps(value, ensure_ascii=False)}"
        yield described("description", rules, shown, field(path, value))
    yield described("description", "1.2 8.6", "seed 2^64", field("projection.seed", str(2**64)))
    yield described("description", "1.2 8.6", "a seed of 21 digits", field("projection.seed", "1" * 21))
    for path in ("projection.d", "projection.D"):
        value = float(TEXT["projection"][path[-1]])
        yield refused(
            "description",
            "8.6",
            f"{path} with a point",
            metadata(unilora=json.dumps(TEXT | {"projection": TEXT["projection"] | {path[-1]: value}})),
        )

    # Limits and parts (1, 7.7, 8.8, 9)
    yield described("limits", "1.1 8.3 8.8", "d = 0", field("projection.d", 0))
    yield described("limits", "1.1 8.3 8.8", "d = -1", field("projection.d", -1))
    yield described("limits", "1.1 8.3 8.8", "d above D", field("projection.d", 6))
    yield described("limits", "1.1 8.8", "D = 0", field("projection.D", 0))
    yield described("limits", "1.1 8.8", "D above 2^40", field("projection.D", 2**40 + 1))
    yield described("limits", "9.1", "an unknown kind", field("projection.kind", "lora-fa"))
    yield described(
        "limits", "9.1", "an unknown kind with fields of its own", field("projection", {"kind": "lora-fa", "rank": 4})
    )
    yield described("limits", "9.2", "identity with d below D", field("projection.kind", "identity"))
    for alpha in (0, -1, 9.9e-5, 2**20 + 1, 1e15):
        yield described("limits", "7.7", f"alpha = {alpha}", field("alpha", alpha))
    yield described("limits", "7.7 8.6", "an unknown scaling", field("scaling", "dora"))
    yield described("parts", "8.8", "D above the layer map's", field("projection.D", 6))
    yield described("parts", "8.8", "D below the layer map's", field("projection.D", 4))
    yield described("parts", "8.3 8.8", "d below theta's length", field("projection.d", 1))
    yield described("parts", "8.8", "a parameter both adapted and saved", field("layers.0.name", "b"))
