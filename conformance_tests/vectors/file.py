"""The file: sound ones, and hostile ones as far as they are short (SPEC 8)."""

from .. import hostile
from ..oracle import files
from .case import vector

LARGEST_FILE = 4000  # bytes of a hostile file; longer ones are the suite's alone


def hostile_files(chapters):
    for case in hostile.CASES:
        first = min(case.rules, key=lambda rule: [int(n) for n in rule.split(".")][::-1])
        own = case.flag == "layer map"
        if own == ("7" in chapters) and len(case.file) <= LARGEST_FILE:
            refused = sorted(case.rules)
            yield vector(first, case.name, "read", refused=refused, file=case.file, flags=(case.flag,))


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
