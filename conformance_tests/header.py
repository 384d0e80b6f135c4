"""Shows the head of a file to a person: its header, decoded as far as it can be."""

import json

from unilora_spec.errors import UniLoraError
from unilora_spec.serialization import decode, is_canonical

from .answers import shown

LONGEST = 1000  # characters of a header that are shown


def lines(data: bytes) -> list[str]:
    """Where the data begins, the header, its description, and whether the file is canonical, a line each."""
    if len(data) < 8:
        return [f"{len(data)} bytes, too few for the length of a header: {data.hex(' ')}"]
    length, there = int.from_bytes(data[:8], "little"), len(data) - 8
    if length > there:
        where = (
            f"the header has {length} bytes by the first 8 ({data[:8].hex(' ')}), and the file only {there} after them"
        )
    else:
        where = f"the header has {length} bytes, data begins at byte {8 + length} (0x{8 + length:x}) and has {there - length}"
    text = data[8 : 8 + length].decode("utf-8", "backslashreplace")
    found = [f"{len(data)} bytes: {where}", f"header: {shown(text, LONGEST)}"]
    if description := description_of(data):
        found.append(f"description in it: {shown(description, LONGEST)}")
    return [*found, _canonical(data)]


def description_of(data: bytes) -> str | None:
    """The text of the description in a file, None where it cannot be found."""
    try:
        description = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["unilora"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return description if isinstance(description, str) else None


def _canonical(data):
    try:
        adapter = decode(data)
        return (
            "canonical" if is_canonical(adapter, data) else "sound, but not canonical: a writer makes other bytes of it"
        )
    except UniLoraError as error:
        return f"the reference refuses it: {shown(str(error))}"
