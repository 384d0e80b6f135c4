"""Makes a process that only builds models import no more than it needs.

transformers and torch import packages that they find installed, PEFT, accelerate, scikit-learn, Triton and others,
hundreds of megabytes. In such a process only the packages that they require are found, whatever else is installed, and
modules that building a model does not use, such as torch's compiler, are replaced by modules of names alone.
"""

import gc
import importlib.machinery
import re
import sys
import types
from importlib import metadata

import torch

OWN = ("unilora_spec", "backends")
BUILDERS = ("torch", "transformers", "typer", "rich")  # planning needs these and what they require
# transformers' models import these by name, and their constructors do not use them.
UNUSED = ("torch._dynamo", "torchao", "scipy")


def build_only() -> None:
    """Makes this process one that builds models and never runs them; to be called before transformers' models are
    imported.

    They would import the compiler and distributed tensors, 190 MB and two seconds, which building a model does not
    need. Garbage collection would take 0.5 s of the imports and free nothing.
    """
    gc.disable()
    torch.distributed.is_available = lambda: False  # as in a build of torch without it
    needed = sys.stdlib_module_names | set(OWN) | required(BUILDERS)
    sys.meta_path[:] = [_NamesOfUnused, *(_OnlyNeeded(finder, needed) for finder in sys.meta_path)]


def required(distributions) -> set[str]:
    """The names of the modules of installed distributions and of all that they require, without extras."""
    names, seen, waiting = set(), set(), list(distributions)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # required on other systems or by other versions of Python only
            continue
        waiting += [re.match(r"[\w.-]+", text)[0] for text in found.requires or () if "extra ==" not in text]
        # Both are read as text: a path object for each of torch's 15,000 files would take longer than all the rest.
        lines = (found.read_text("top_level.txt") or found.read_text("RECORD") or "").splitlines()
        names |= {re.split(r"[/,.]", line)[0] for line in lines}
    return names


class _OnlyNeeded:
    """A finder of modules that finds only those with ``needed`` names, and private ones, which belong to them."""

    def __init__(self, finder, needed):
        self._finder, self._needed = finder, needed

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in self._needed or top.startswith("_"):
            return self._finder.find_spec(name, path, target)
        return None

    def __getattr__(self, name):
        return getattr(self._finder, name)


class _NamesOfUnused:
    """Finds the modules in ``UNUSED`` as modules of names alone, whose decorators leave transformers' functions as they
    are."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{package}.") for package in UNUSED):
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
