"""Faults in the fingerprint of the base outside of the adapted weights (SPEC 10.5, 10.6)."""

from . import of

FAULTS = [
    *of(
        "rest.py",
        ("entries without the last", "10.5", "* (count - 1) // max(1, compared - 1)", "* count // max(1, compared)"),
        ("63 entries", "10.5", "ENTRIES = 64", "ENTRIES = 63"),
        ("digits of other scripts", "10.5", '"[0-9]+", "0"', r'r"\d+", "0"'),
        ("each digit by itself", "10.5", '"[0-9]+", "0"', '"[0-9]", "0"'),
        ("entries in the order of the groups' names", "10.5", "found = sorted(", "found = list("),
        ("members as they come", "10.5", "sorted(members[group], key=lambda m: m[0])", "members[group]"),
        ("rounded with ties upwards", "10.5", "(bits + 0x7FFF + ((bits >> 16) & 1))", "(bits + 0x8000)"),
        ("small values as they are", "10.5", "np.where(np.abs(rounded) < _SMALL, np.float32(0), rounded)", "rounded"),
        ("2^-14 as a small value", "10.5", "np.where(np.abs(rounded) < _SMALL,", "np.where(np.abs(rounded) <= _SMALL,"),
        ("exact in both forms", "10.5", "is_half = not is_short and bool(", "is_half = bool("),
        ("small values that are not exact", "10.5", "is_short = bool((small | (short == values)).all())", "is_short = bool((short == values).all())"),
        ("a form whatever was rounded", "10.5", "(UNKNOWN if is_half else _digest(members, short))", "_digest(members, short)"),
        ("without the shapes", "10.5", "digest.update(canonical_json.encode(list(shape)))", "pass"),
        ("groups that are not there", "10.6", "recorded.get(_key(group), UNKNOWN * 2)", 'recorded.get(_key(group), "1" * 8)'),
        ("forms that are not there", "10.6", "if UNKNOWN not in (a, b)", "if True"),
        ("one form alone", "10.6", "pairs = ((one[:4], other[:4]), (one[4:], other[4:]))", "pairs = ((one[:4], other[:4]),)"),
        ("the first of two entries", "10.6", "for at in range(0, len(record), 16)}", "for at in reversed(range(0, len(record), 16))}"),
    ),
]  # fmt: skip
