"""The base class of all settings: it converts and checks options, and writes them as a command line has them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unilora_spec import UniLoraError

from .file import read_config
from .options import flag, written


@dataclass
class Settings:
    """Options of a call, each a field made by ``option``; texts and numbers are converted as those of the command line are.

    Raises ``UniLoraError`` with the option's name for a value that it cannot have.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is not None:
                value = field.default
            if value not in (None, ()):
                setattr(self, field.name, self._converted(field, value))

    @staticmethod
    def _converted(field, value):
        try:
            return field.metadata["convert"](value)
        except ValueError as error:
            raise UniLoraError(f"{flag(field.name)} is {value!r:.200}; give {error}") from None

    def as_options(self) -> list[str]:
        """The settings as options of a command line: those that differ from their defaults, without those that say how
        a call goes on."""
        options = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default or not field.compare or field.metadata["panel"] is None:
                continue
            if isinstance(value, bool):
                options.append(flag(field.name) if value else f"--no-{field.name.replace('_', '-')}")
            else:
                options += [flag(field.name), written(value, field.metadata["convert"])]
        return options

    @classmethod
    def from_options(cls, options: Mapping, config: Path | None = None) -> "Settings":
        """The settings of a call: ``options`` by field name, where None means not given; they go before those of the
        YAML file."""
        given = {name: value for name, value in options.items() if value is not None}
        known = [field.name for field in dataclasses.fields(cls) if field.metadata["panel"]]
        return cls(**{**(read_config(config, known) if config else {}), **given})
