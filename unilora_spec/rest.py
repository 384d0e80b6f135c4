"""The fingerprint of a base outside of what an adapter changes (SPEC 10.5, 10.6): a few values of every tensor.

What the outputs of an adapted model mean depends on all of the base. Its adapted weights are compared in full (SPEC 10.2); of
the rest, which is most of it, so little is read that it costs nothing beside them, and one digest is kept for each group of tensors.

A base is the same base in float32, bfloat16 and float16, so the values are rounded to each of the two short forms before they are
digested. Values that have been rounded to one of these forms already have no digest in the other, in which they would be rounded twice.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from . import canonical_json

ENTRIES = 64  # of a tensor are compared, at most
MOST_GROUPS = 1024  # 16 KiB of a header that has 256; real models have a few dozen
UNKNOWN = "0000"
_SMALL = 2.0**-14  # below it float16 loses bits that bfloat16 keeps

Tensor = tuple[str, tuple[int, ...], np.ndarray | None]
Tensors = Iterable[Tensor]


def entries(count: int) -> np.ndarray:
    """Which of a tensor's ``count`` entries are compared, counted row by row: int64, at most ``ENTRIES``, with the first and the last."""
    compared = min(count, ENTRIES)
    return np.arange(compared, dtype=np.int64) * (count - 1) // max(1, compared - 1)


def group_of(name: str) -> str:
    """The name that the tensors of a group share: 0 in place of each number."""
    return re.sub("[0-9]+", "0", name)


def fingerprint(tensors: Tensors) -> str | None:
    """16 hexadecimal digits for each group of ``tensors`` (SPEC 10.5), or None where there are too many groups.

    A tensor is its name in the model, its shape, and its values at ``entries``: float32, in this order, or None where they
    cannot be read as such, because they are packed or elsewhere. Its group is left out then.
    """
    found = sorted(_key(group) + contents for group, (_, contents) in _groups(tensors).items())
    return "".join(found) if len(found) <= MOST_GROUPS else None


def placeholder(names: Iterable[str]) -> str | None:
    """A text as long as the fingerprint of tensors of these names, and None where that is; it fits every base."""
    groups = len(set(map(group_of, names)))
    return UNKNOWN * 4 * groups if groups <= MOST_GROUPS else None


def differing(record: str, tensors: Tensors) -> list[str]:
    """The first name of each group of ``tensors`` that is in ``record`` with other contents, in their order (SPEC 10.6)."""
    recorded = {record[at : at + 8]: record[at + 8 : at + 16] for at in range(0, len(record), 16)}
    return sorted(
        name
        for group, (name, contents) in _groups(tensors).items()
        if _differ(recorded.get(_key(group), UNKNOWN * 2), contents)
    )


def warnings_of(names: list[str]) -> list[str]:
    """The warning about a base for which ``differing`` gives ``names``: one sentence, or none where there are no names."""
    if not names:
        return []
    more = f", and {len(names) - 1} more such groups of tensors do" if names[1:] else ""
    return [
        f"the base is not the one that the adapter was trained on, outside of the adapted weights: {names[0]} differs{more}"
    ]


def _differ(one: str, other: str) -> bool:
    pairs = ((one[:4], other[:4]), (one[4:], other[4:]))
    return any(a != b for a, b in pairs if UNKNOWN not in (a, b))


def _key(group: str) -> str:
    return hashlib.sha256(group.encode("utf-8")).hexdigest()[:8]


def _groups(tensors: Iterable[Tensor]) -> dict[str, tuple[str, str]]:
    """The first name and the 8 digits of the contents of each group, by the group's name and in the order of these names."""
    members: dict[str, list[Tensor]] = {}
    for name, shape, values in tensors:
        members.setdefault(group_of(name), []).append((name, tuple(shape), values))
    return {
        group: (min(member[0] for member in members[group]), _contents(sorted(members[group], key=lambda m: m[0])))
        for group in sorted(members)
        if all(values is not None for _, _, values in members[group])
    }


def _contents(members: list[Tensor]) -> str:
    values = np.concatenate(
        [np.zeros(0, np.float32), *(np.ravel(values) for _, _, values in members if values is not None)],
        dtype=np.float32,
    )
    small, short = np.abs(values) < _SMALL, _to_bfloat16(values)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    is_short = bool((small | (short == values)).all())
    is_half = not is_short and bool((small | (half == values)).all())
    return (UNKNOWN if is_half else _digest(members, short)) + (UNKNOWN if is_short else _digest(members, half))


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 rounded to bfloat16 (SPEC 8.3)."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def _digest(members: list[Tensor], rounded: np.ndarray) -> str:
    plain, digest, at = np.where(np.abs(rounded) < _SMALL, np.float32(0), rounded).astype("<f4"), hashlib.sha256(), 0
    for _, shape, values in members:
        digest.update(canonical_json.encode(list(shape)))
        end = at + (0 if values is None else np.size(values))
        digest.update(plain[at:end].tobytes())
        at = end
    return digest.hexdigest()[:4]


def of_arrays(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
    """The tensors of a mapping from names to whole arrays of floats."""
    for name, array in arrays.items():
        yield name, np.shape(array), np.ravel(array)[entries(np.size(array))].astype(np.float32)
