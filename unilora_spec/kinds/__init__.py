"""The projection kinds, one file each; importing one registers it (SPEC 4, 5, 9, 11)."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
