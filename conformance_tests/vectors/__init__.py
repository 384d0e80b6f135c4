"""Known answers for ``unilora_spec/vectors``: ``python -m conformance_tests.vectors`` writes them, from the oracle.

Each case is a request of PROTOCOL.md with its answer, so that any language can replay them with a JSON parser and base64. The modules
here make the cases, each of some chapters of SPEC.md.
"""

import json
from pathlib import Path

import unilora_spec

from .. import hostile
from . import base, boundaries, family, file, layer_map, permutation, projection

FOLDER = Path(unilora_spec.__file__).parent / "vectors"

NOTES = {
    "edge": "At a limit, or where one more or less changes the way.",
    "large": "Numbers above 32 bits: arithmetic of 32 bits, or of doubles where SPEC 1.4 says no, shows here.",
    "invalid": "To be refused.",
    "optional": "Of a kind that an implementation may lack; then rule 9.1 refuses it.",
}

FILES = {
    "1-limits": projection.limits,
    "2-keys": permutation.keys,
    "3-mixing": permutation.mixing,
    "4-balanced": permutation.balanced,
    "5-uniform": projection.uniform,
    "6-values": projection.values,
    "7-layer-map": layer_map.layer_map,
    "8-file": file.file,
    "9-kinds": projection.kinds,
    "10-base": base.base,
    "11-family": family.family_kinds,
}
"""What makes the cases of each file."""


def _slug(case):
    return case["request"]["request"].replace("_", "-")


def texts() -> dict[str, str]:
    """The files by name, each a line for each case."""
    result = {}
    for name, cases in FILES.items():
        chapter = name.split("-")[0]
        every = enumerate([*cases(), *boundaries.boundaries(chapter)])
        cases = [{"id": f"{_slug(case)}-{number}", **case} for number, case in every]
        notes = {flag: (NOTES | hostile.FLAGS)[flag] for case in cases for flag in case["flags"]}
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        head = json.dumps({"specification": "1", "chapter": chapter, "notes": notes}, ensure_ascii=False, indent=1)
        result[f"{name}.json"] = f'{head[:-2]},\n "cases": [\n{lines}\n]}}\n'
    return result
