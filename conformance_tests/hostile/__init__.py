"""Files that must be refused, each with the rules that refuse it, and files at the limits that must be read.

All are the tiny adapter of SPEC 8 with one thing changed. A module for each part of a file that is attacked has its cases. A flag
groups the cases by the mistake that accepts them; ``FLAGS`` says what the mistake costs.
"""

from . import container, description, json_texts, layer_map, sound, table, tensors, version
from .case import FLAGS, Case
from .foldings import FOLDINGS
from .sound import description_of
from .tiny import (
    BASE,
    BODY,
    TABLE,
    TABLE_TENSORS,
    TENSORS,
    TEXT,
    TINY,
    header,
    metadata,
    size,
    tensor,
    text_of,
    tiny_header,
    with_text,
)

CASES: tuple[Case, ...] = tuple(
    case
    for attacked in (container, tensors, version, json_texts, description, table, layer_map)
    for case in attacked.cases()
)
SOUND: tuple[Case, ...] = tuple(sound.cases())

__all__ = [
    "BASE",
    "BODY",
    "CASES",
    "FLAGS",
    "FOLDINGS",
    "SOUND",
    "TABLE",
    "TABLE_TENSORS",
    "TENSORS",
    "TEXT",
    "TINY",
    "Case",
    "description_of",
    "header",
    "metadata",
    "size",
    "tensor",
    "text_of",
    "tiny_header",
    "with_text",
]
