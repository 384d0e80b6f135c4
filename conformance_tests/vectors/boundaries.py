"""A sample of the inputs of boundaries/, for each chapter."""

import json

from ..boundaries import LINES
from .case import vector

LARGEST_BOUNDARY, OF_A_LINE = 1200, 2500  # characters of a case of boundaries/, and of those of one line


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
