"""The projection kinds, one file each; importing one registers it (SPEC 4, 5, 9)."""

from . import balanced, identity, table, uniform  # noqa: F401
