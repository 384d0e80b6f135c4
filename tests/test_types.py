"""Every name that a package offers says what it takes and gives; `make types` checks those of unilora_spec by mypy, strictly."""

import importlib
import inspect

import pytest

PACKAGES = "unilora_spec", "backends.torch", "backends.torch.optimizers", "export"


def offered(package):
    """The functions of a package's ``__all__``, and the public methods and properties of its classes, by name."""
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value):
            yield name, value
            continue
        for own, member in vars(value).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not own.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{own}", inspect.unwrap(function)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_offers_has_types(package):
    without = []
    for name, function in offered(package):
        signature = inspect.signature(function)
        taken = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
        if signature.return_annotation is signature.empty or any(each.annotation is each.empty for each in taken):
            without.append(name)
    assert not without
