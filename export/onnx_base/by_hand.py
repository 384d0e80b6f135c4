"""Finds weights where the user says that they are."""

import difflib
from collections.abc import Mapping

from unilora_spec import BaseMismatch, UniLoraError

from .fitting import File, Match, Weight


def by_hand(file: File, wanted, given: Mapping[str, str]) -> dict[str, list[Match]]:
    """The places that ``given``, {the adapter's name: "initializer" or "initializer@row"}, has for some of ``wanted``, which are weights and
    parameters by name. Raises ``UniLoraError`` where it names what does not exist, ``BaseMismatch`` where an initializer cannot hold
    its weight."""
    found = {}
    for name, text in given.items():
        if name not in wanted:
            raise UniLoraError(f"the adapter has no weight {name}, which --map names{_near(name, wanted)}")
        value, row = file.initializers.get(text), None
        if value is None and "@" in text:
            before, _, after = text.rpartition("@")
            if after.isdecimal():
                value, row = file.initializers.get(before), int(after)
        constant = file.of.get(value)
        if constant is None:
            raise UniLoraError(
                f"the file has no initializer {text} in use, which --map names{_near(text, file.initializers)}"
            )
        found[name] = [_given_match(wanted[name], constant, row)]
    return found


def _given_match(wanted, constant, row) -> Match:
    fits = wanted.fits(constant)
    if row is not None:
        rows = wanted.stacked(constant) if isinstance(wanted, Weight) else []
        fits = [turned for turned, height in rows if row + wanted.segments[0].out_features <= height]
    if not fits:
        at = "" if row is None else f" at row {row}"
        shape = " × ".join(map(str, constant.forms[0][0] if constant.forms else constant.value.shape))
        raise BaseMismatch(
            f"{constant.value.name} does not hold {wanted}{at}: it is {shape}; give another --map", "10.3"
        )
    return Match(wanted.name, constant.value, fits[0], "given", row)


def _near(name, there) -> str:
    near = difflib.get_close_matches(name, list(there), 3, 0) if there else []
    return f"; it has {', '.join(near)}" + (", …" if len(near) < len(there) else "") if near else ""
