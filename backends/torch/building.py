"""A process that builds models and never runs them: what it need not import is not there for it.

transformers and torch import what they find installed, PEFT, accelerate, scikit-learn, Triton and others, hundreds of megabytes of it.
So only what they require is found, whatever else is installed; and of torch, what building leaves is a module of names alone.
"""

import gc
import importlib.machinery
import re
import sys
import types
from importlib import metadata

import torch

OWN = ("unilora_spec", "backends")
BUILDERS = ("torch", "transformers", "typer", "rich")  # with what they require: all that planning needs
LEFT = ("torch._dynamo", "torchao", "scipy")  # what transformers' models import by name, and their constructors leave


def build_only() -> None:
    """Makes this process one that builds models and never runs them: for the command, before transformers' models load.

    They import the compiler and the distributed tensors, 190 MB and two seconds together, of which building one needs nothing.
    Garbage collection, 0.5 s of the imports, finds nothing in them.
    """
    gc.disable()
    torch.distributed.is_available = lambda: False  # as in a build of torch without it
    needed = sys.stdlib_module_names | set(OWN) | required(BUILDERS)
    sys.meta_path[:] = [_NamesOfLeft, *(_OnlyNeeded(finder, needed) for finder in sys.meta_path)]


def required(distributions) -> set[str]:
    """The names of the modules that installed distributions bring, and those that they require, without extras."""
    names, seen, waiting = set(), set(), list(distributions)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # required elsewhere: on another system, by another Python
            continue
        waiting += [re.match(r"[\w.-]+", text)[0] for text in found.requires or () if "extra ==" not in text]
        # Both as text: to make a path of each of torch's fifteen thousand files takes longer than all the rest.
        lines = (found.read_text("top_level.txt") or found.read_text("RECORD") or "").splitlines()
        names |= {re.split(r"[/,.]", line)[0] for line in lines}
    return names


class _OnlyNeeded:
    """A finder of modules that finds none but those of the ``needed`` names, and private ones, which belong to them."""

    def __init__(self, finder, needed):
        self._finder, self._needed = finder, needed

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in self._needed or top.startswith("_"):
            return self._finder.find_spec(name, path, target)
        return None

    def __getattr__(self, name):
        return getattr(self._finder, name)


class _NamesOfLeft:
    """Finds ``LEFT`` as modules of names alone, so that what transformers decorates with them stays as it is."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{package}.") for package in LEFT):
            return importlib.machinery.ModuleSpec(name, cls, is_package=True)

    @staticmethod
    def create_module(spec):
        return _Names(spec.name)

    @staticmethod
    def exec_module(module):
        pass


class _Names(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Decorator(name, (), {})


class _Decorator(type):
    def __call__(cls, *args, **options):
        return args[0] if args and callable(args[0]) else cls
