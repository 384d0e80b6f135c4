"""Explains why a pattern matches no target, and what to write instead."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence

from torch import nn

from .candidates import Candidate, Unfit
from .names import base_name, modules, parameters

SHOWN = 6  # names in a sentence
_ROWS = re.compile(r"\[\d+:\d+\]$")


def is_glob(pattern: str) -> bool:
    """Whether a pattern begins as a shell's does, which as a regular expression means nothing."""
    return pattern[:1] in ("*", "?")


def why_glob(pattern: str) -> str:
    end = pattern.lstrip("*?.")
    expression = ".*" + re.escape(pattern.lstrip("*?")).replace(r"\*", ".*")
    return (
        f"{pattern!r} is no regular expression but a shell's pattern; "
        f"write the end of the names, {end!r}, or a regular expression such as '{expression}'"
    )


def why_none(
    target: str, pattern: str, model: nn.Module, found: Sequence[Candidate | Unfit], expressed: set[str]
) -> str:
    """A sentence for a target that selects none of ``found``; ``expressed`` are the names that it matches as a regular
    expression."""
    if not found:
        return "the model has no Linear, convolution, Conv1D or stacked weight to adapt, nor another matrix"
    reason = (
        _why_no_name(pattern, model, found, expressed) or f"; {_close_names(pattern, [each.target for each in found])}"
    )
    return f"the target {target!r} matches no weight that can be adapted{reason}"


def why_not_among(argument: str, pattern: str, model: nn.Module, targets: Sequence[str]) -> str:
    """A sentence for a pattern of ``argument`` ("ranks", "exclude") that matches none of the targets."""
    if expression := _expression_below(pattern, targets):
        hint = f": {pattern} holds targets; write the regular expression '{expression}'"
    else:
        hint = f"; {_close_names(pattern, targets)}"
    return f"{argument}: {pattern!r} matches no weight that is a target{hint}"


def ends(names: Sequence[str]) -> str:
    """The ends of names, and how many have each: "query (12), value (12)"."""
    counts = Counter(name.rpartition(".")[2] for name in names)
    shown = ", ".join(f"{end} ({count})" for end, count in list(counts.items())[: 2 * SHOWN])
    return shown + (" …" if len(counts) > 2 * SHOWN else "")


def _close_names(pattern, names) -> str:
    every = list(dict.fromkeys(part for name in names for part in (name.rsplit(".", 1)[-1], name)))
    close = difflib.get_close_matches(_ROWS.sub("", pattern), every, n=4, cutoff=0.4) or every[:SHOWN]
    return f"close names are {', '.join(close)}"


def _why_no_name(pattern, model, found, expressed):
    targets = [each.target for each in found]
    plain = base_name(pattern)
    if plain != pattern and _ending_in(plain, targets):
        return f": names are those of the model without its wrappers; write {plain!r}"
    owner, _, key = pattern.rpartition(".")
    if key in ("weight", "bias") and (named := _ending_in(owner, targets)):
        if key == "weight":
            return f": a target is named by its module, without .weight; write {owner!r}"
        return f": {named[0]}.bias is a vector; name it in train_in_full"
    if expressed:
        names = ", ".join(sorted(expressed)[:SHOWN])
        return f": a regular expression takes no tables, bare parameters or stacks of experts; name them by their ends: {names}"
    every = modules(model)
    if named := _ending_in(pattern, every):
        return f": {_describe_module(named[0], every, found)}"
    owned = parameters(model)
    if named := _ending_in(pattern, owned):
        module, key = owned[named[0]]
        shape = " × ".join(map(str, module._parameters[key].shape))
        return f": {named[0]} is no matrix to multiply by, its shape is {shape}; name it in train_in_full"
    return None


def _describe_module(name, every, found):
    """Says what the module ``name`` is, which is no target, and what to write in its place."""
    module = every[name]
    kind = type(module).__name__
    if other := next((each.target for each in found if each.module is module and each.target != name), None):
        if other in every:
            return f"{name} is the same module as {other}; write {other!r}"
        matrices = [each.target for each in found if each.module is module]
        return f"{name} is a {kind}, whose matrices have names of their own; write {_quoted(matrices)}"
    below = [each.target for each in found if each.target.startswith(f"{name}.") and each.is_linear]
    if below:
        inner = list(dict.fromkeys(each.removeprefix(f"{name}.").rpartition(".")[2] for each in below))
        more = ", …" if len(inner) > 2 * SHOWN else ""
        return f"{name} is a {kind}, which holds linear maps; write their names: {', '.join(inner[: 2 * SHOWN])}{more}"
    if any(True for _ in module.parameters()):
        return f"{name} is a {kind}, whose parameters are no matrices to multiply by; name it in train_in_full"
    return f"{name} is a {kind}, which has no parameters"


def _quoted(names):
    return ", ".join(map(repr, names[:SHOWN]))


def _ending_in(end, names) -> list[str]:
    """The names that are ``end`` or end in it, from a dot on; a row range of ``end`` is ignored."""
    end = _ROWS.sub("", end)
    return [name for name in names if end and (name == end or name.endswith(f".{end}"))]


def _expression_below(pattern, targets):
    """A regular expression for the targets below the modules whose names end in ``pattern``; None where there are
    none."""
    inside = f".{pattern}."
    if pattern and any(inside in f".{name}" for name in targets):
        return rf"(.*\.)?{re.escape(pattern)}\..*"
    return None
