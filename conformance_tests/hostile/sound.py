"""Files at the limits that must be read."""

import json

from ..oracle import files
from .case import Case
from .tiny import BASE, BODY, TENSORS, TEXT, TINY, size, with_text


def cases():
    def sound(name, description=TEXT, tensors=TENSORS, change=None, text=None):
        file = files.write(description, tensors)
        if change:
            value = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
            change(value)
            file = with_text(json.dumps(value), BODY)
        return Case(name, "edge", frozenset(), with_text(text) if text else file)

    def mapped(name, entries):
        D = sum(map(size, entries))
        description = TEXT | {"layers": entries, "projection": TEXT["projection"] | {"D": D}}
        return sound(name, change=lambda value: value["__metadata__"].update(unilora=json.dumps(description)))

    W = TEXT["layers"][0]
    run = {"layers": [0, 2], "prefix": "", "segments": [W | {"name": ""}]}
    text = TINY[8:-10].rstrip()
    yield sound("a header of 256 KiB", text=text.ljust(2**18))
    yield sound("a header without padding", text=text)
    yield sound("minus zero for zero", text=text.replace(b"[0,8]", b"[-0,8]"))
    yield sound(
        "alpha in 32 characters",
        change=lambda h: h["__metadata__"].update(
            unilora=json.dumps(TEXT).replace(': 1, "lay', ": 1." + "0" * 30 + ', "lay')
        ),
    )
    yield sound(
        "alpha with an exponent",
        change=lambda h: h["__metadata__"].update(unilora=json.dumps(TEXT).replace(': 1, "lay', ': 0.01E+2, "lay')),
    )
    yield sound("a shape of 64 numbers", tensors=TENSORS | {"saved.b": ("BF16", [1] * 64, [0.25])})
    yield sound("a shape of no number", tensors=TENSORS | {"saved.b": ("BF16", [], [0.25])})
    yield sound("an empty tensor", tensors=TENSORS | {"saved.e": ("F16", [3, 0, 2], [])})
    yield sound("brackets in a name", tensors=TENSORS | {"saved." + '[{"' * 40: ("F32", [1], [1.0])})
    yield sound("a name of blanks and controls", tensors=TENSORS | {"saved. \x00\x1f\x7f\u2028": ("F32", [1], [1.0])})
    yield sound(
        "names beyond the basic plane",
        tensors=TENSORS | {"saved.\ue000": ("F32", [1], [1.0]), "saved.𝔸": ("F32", [1], [2.0])},
    )
    yield sound(
        "names that JavaScript knows",
        tensors=TENSORS | {"saved.__proto__": ("F32", [1], [1.0]), "saved.constructor": ("F32", [1], [2.0])},
    )
    yield sound("the largest seed", TEXT | {"projection": TEXT["projection"] | {"seed": str(2**64 - 1)}})
    for alpha in (1e-4, 2**20, 0.1, 1048575.9999999999):
        yield sound(f"alpha = {alpha}", TEXT | {"alpha": alpha})
    yield sound("empty texts in the base", TEXT | {"base": BASE | {"name": "", "architecture": "", "labels": ["", ""]}})
    yield sound("no labels", TEXT | {"base": BASE | {"labels": []}})
    yield sound(
        "scaling written out", change=lambda h: h["__metadata__"].update(unilora=json.dumps(TEXT | {"scaling": "lora"}))
    )
    yield mapped("65,536 segments", [run | {"layers": [0, 65_536]}])
    yield mapped("65,536 segments in a stack", [W | {"index": [0, 65_536]}])
    yield mapped("a name of 512 bytes", [W | {"name": "é" * 256}])
    yield mapped("numbers up to 2^40", [run | {"layers": [2**40 - 2, 2**40]}])
    yield mapped("a run that ends with nothing", [run])
    yield mapped("a stack in a run", [run | {"segments": [W | {"name": ".x", "index": [3, 5]}]}])
    yield mapped("D = 2^40", [W | {"rank": 2**19, "in": 2**20, "out": 2**20}])
    yield mapped("D = 2^40 by rank 0", [W | {"rank": 0, "in": 2**20, "out": 2**20}])
    yield mapped("rank 0 beside others", [W | {"row": 0, "rank": 0}, W | {"row": 2}, W | {"row": 4, "rank": 0}])
    yield mapped("rows that meet", [W | {"row": 2}, W | {"row": 0}])
    yield mapped("rows of different indices", [W | {"row": 0, "index": 0}, W | {"row": 1, "index": 1}])


def description_of(case: Case) -> str:
    """The canonical description of a sound file, by the oracle."""
    header = json.loads(case.file[8 : 8 + int.from_bytes(case.file[:8], "little")])
    description = json.loads(header["__metadata__"]["unilora"])
    return files.describe(description | {"layers": files.unfold(description["layers"])})
