"""How an option is stated for Python, for the command line and for a YAML file at once, and which values it can
have."""

import codecs
import dataclasses
from collections.abc import Mapping
from pathlib import Path

LANGUAGE = ("causal-lm", "seq2seq")  # tasks of language models
TASKS = ("classification", "regression", "multi-label", "token-classification", "image-classification", *LANGUAGE)
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
# Planners of ranks that run texts through the base before training, and the number of texts. HeteroLoRA's own example
# takes 32 batches of 8. GeLoRA's number could not be looked up; with a thousand texts the standard error is a twentieth
# of the dimension.
TEXTS = {"gelora": 1000, "hetero": 256}
BEFORE = tuple(TEXTS)
DURING = ("beam", "dora")  # planners that move ranks during training
PLANNERS = ("uniform", *BEFORE, *DURING)
PROXIES = ("grad-norm", "snip", "synflow")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZED = ("nf4", "int8", "torchao-int4", "torchao-int8")
# The schedules of transformers that need no further numbers.
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt")


# Each converter takes a value of a command line or of a YAML file; _as turns its refusal into a sentence on what to
# give instead.


def _as(expected, convert):
    def converted(value):
        try:
            return convert(value)
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise ValueError(expected) from None

    return converted


def _text(value) -> str:
    if isinstance(value, bool | list | dict):
        raise TypeError
    return str(value)


def _flag(value) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def whole(least):
    def convert(value) -> int:
        if isinstance(value, bool | float) or int(value) < least:
            raise ValueError
        return int(value)

    return _as(f"a whole number from {least}", convert)


def number(least, below=float("inf")):
    def convert(value) -> float:  # YAML reads 5e-3 as a text
        if isinstance(value, bool) or not least <= float(value) < below:
            raise ValueError
        return float(value)

    return _as(f"a number from {least}" + (f" to below {below}" if below < float("inf") else ""), convert)


def one_of(*choices):
    def convert(value) -> str:
        return choices[choices.index(value)]

    return _as(listed(choices), convert)


def listed(choices) -> str:
    return ", ".join(choices[:-1]) + f" or {choices[-1]}"


def _names(value) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (value.split(",") if isinstance(value, str) else value))
    if not all(names):
        raise ValueError
    return names


def _rates(value) -> tuple[float, ...]:
    rates = tuple(map(number(0), value.split(",") if isinstance(value, str) else value))
    if len(rates) < 2:
        raise ValueError
    return rates


def _pairs(value) -> list[tuple[str, str]]:
    if isinstance(value, str):
        value = (pair.split("=", 1) for pair in value.split(","))
    elif isinstance(value, Mapping):
        value = value.items()
    return [(str(name).strip(), str(given).strip()) for name, given in value]


def _ranks(value) -> dict[str, int] | str:
    return value if value in PLANNERS else {name: whole(0)(rank) for name, rank in _pairs(value)}


def _options(value) -> dict[str, int]:
    return {name: whole(0)(number) for name, number in _pairs(value)}


def _condition(value) -> tuple[str, str]:
    if isinstance(value, str):  # whole: the value may hold a comma
        value = [value.split("=", 1)]
    elif isinstance(value, tuple):
        value = [value]
    ((column, wanted),) = _pairs(value)
    return column, wanted


def _separator(value) -> str:
    separator = SEPARATORS.get(value, value)
    if len(separator) != 1 or separator in '"\r\n':
        raise ValueError
    return separator


def _encoding(value) -> str:
    try:
        known = codecs.lookup(value)
    except LookupError:
        raise ValueError from None
    if not known._is_text_encoding or known.incrementaldecoder is None:
        raise ValueError
    return value


TEXT, FLAG, PATH = _as("a text", _text), _as("true or false", _flag), _as("a path", lambda value: Path(_text(value)))
NAMES = _as("names with commas between them", _names)
RANKS = _as(f"{listed(PLANNERS)}, or pairs such as query=8,value=2", _ranks)
RATES = _as("two numbers from 0 or more, such as 1e-3,3e-3,1e-2", _rates)
OPTIONS = _as("pairs such as length=128,bank=90", _options)
CONDITION = _as("COLUMN=VALUE", _condition)
SEPARATOR = _as(f"{listed(tuple(SEPARATORS))}, or a character", _separator)
ENCODING = _as("a name such as utf-8, utf-16 or cp1252", _encoding)


def option(panel, convert, help, default=None, **options):
    """A field of a dataclass that is an option: the ``panel`` of --help that shows it, ``convert``, which makes its
    value of a text or a value of YAML, and its ``help``."""
    return dataclasses.field(default=default, metadata={"panel": panel, "convert": convert, "help": help}, **options)


def written(value, convert) -> str:
    """A value as the command line writes it; ``convert`` makes the value of it again."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={each}" for name, each in value.items())
    return ("=" if convert is CONDITION else ",").join(value) if isinstance(value, tuple) else str(value)


def hidden(default=None):
    """A field that takes the place of an inherited option and is itself no option of a command."""
    return option(None, lambda value: value, "", default)


def flag(name: str) -> str:
    """The name of a field as the command line writes it.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")
