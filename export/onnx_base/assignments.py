"""Which weight may be at which place of a file, the likeliest assignment first, for a search by the adapter's one fingerprint of all.

A file without names still has an order, that in which it uses its weights. Layers come one after the other, and each uses the
same weights at the same places, so the weights of one name in n layers are every k-th of those of their form. Of such
assignments there are few enough to hash them all, and the one that gives the fingerprint is proven.
"""

import itertools
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

LARGEST_WORK = 2**35
"""Bytes that a search hashes at most: some 40 seconds of one CPU core."""
LARGEST_TRIES = 2**20
"""Assignments that it builds at most, of which most are dropped before they are hashed."""


class Kind(NamedTuple):
    """Places in a file that are alike.

    ``family``  equal for those that are used in one way and of one shape
    ``row``     the first row in an initializer that holds more, or None
    """

    family: Hashable
    row: int | None = None


class Group(NamedTuple):
    """Weights of one name and shape in all layers.

    ``prefix``  what stands before the first number of their names
    ``names``   in the order of the layers
    ``places``  where they may be: for each kind, in the order of use
    """

    prefix: str
    names: list[str]
    places: dict[Kind, list[Hashable]]


class _Choice(NamedTuple):
    group: Group
    kind: Kind
    start: int
    step: int

    def places(self):
        return self.group.places[self.kind][self.start :: self.step][: len(self.group.names)]


def grouped(names: Iterable[str], form: Callable[[str], Hashable]) -> list[tuple[str, list[str]]]:
    """(prefix, names) of each group of names that differ in their numbers alone and have one form."""
    groups = {}
    for name in names:
        groups.setdefault((re.sub(r"\d+", "*", name), form(name)), []).append(name)
    return [(template.partition("*")[0], sorted(group, key=_numbers)) for (template, _), group in groups.items()]


def search(groups: list[Group], proves: Callable[[dict], bool], cost: int) -> tuple[dict | None, int, bool]:
    """({name: place}, how many were hashed, whether all that there are): the assignment that ``proves`` accepts, or None.

    ``cost`` is the bytes that one call of it hashes.
    """
    hashed = 0
    for tried, assignment in enumerate(_assignments(groups)):
        if tried == LARGEST_TRIES or (hashed + 1) * cost > LARGEST_WORK:
            return None, hashed, False
        if assignment is not None:
            hashed += 1
            if proves(assignment):
                return assignment, hashed, True
    return None, hashed, True


def _assignments(groups, chosen=()) -> Iterator[dict | None]:
    """All assignments, the likeliest first, and None for each that is none."""
    if len(chosen) == len(groups):
        yield {name: place for choice in chosen for name, place in zip(choice.group.names, choice.places())}
        return
    for choice in _choices(groups[len(chosen)]):
        if all(_together(choice, other) for other in chosen):
            yield from _assignments(groups, (*chosen, choice))
        else:
            yield None


def _choices(group) -> Iterator[_Choice]:
    n = len(group.names)
    for kind, places in group.places.items():
        most = (len(places) - 1) // (n - 1) if n > 1 else 1
        even = min(len(places) // n, most)  # of each layer's places one, and none beside the layers
        for step in itertools.chain(range(even, 0, -1), range(even + 1, most + 1)):
            for start in range(len(places) - (n - 1) * step):
                yield _Choice(group, kind, start, step)


def _together(one, other) -> bool:
    """Whether two names can be at these places: at different ones, and in the same layer of the same stretch of the file."""
    if not set(one.places()).isdisjoint(other.places()):
        return False
    a, b = one.group, other.group
    alike = a.prefix == b.prefix and len(a.names) == len(b.names) > 1 and one.kind.family == other.kind.family
    return not alike or (one.step == other.step and abs(one.start - other.start) < one.step)


def _numbers(name):
    return [int(number) for number in re.findall(r"\d+", name)]
