"""Saves and loads an adapter's file (SPEC 8), the one that every backend reads."""

import warnings
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from unilora_spec import Adapter as AdapterFile
from unilora_spec import Base, LayerMapError, load_adapter, rest, save_adapter

from .paths import Names, flattened, from_checkpoint, named
from .specification import Adapter, Specification


def save(
    file,
    spec: Specification,
    theta: Array,
    params=None,
    *,
    in_full: Sequence[str] = (),
    base: str = "",
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    dtype: str = "F32",
) -> int:
    """Writes the adapter's file, whole or not at all, and returns its bytes.

    params         the adapted tree, with W and not W + ΔW: the file then records the base's shapes and values (SPEC
                   10), and holds the leaves that were trained in full beside θ
    in_full        these leaves, by their paths or the beginnings of their paths ("classifier")
    base           the base's folder or hub id
    architecture   the base's class in transformers
    labels         the names of its output classes
    dtype          the dtype in which θ is stored: F32, F16 or BF16

    Raises ``UniLoraError`` for values that are not finite, and for a path that no leaf has.
    """
    projection, stored = spec.projection.stored_as(np.asarray(theta, np.float32))
    record, saved = None, {}
    if params is not None:
        arrays = dict(flattened(params)[0])
        whole = _in_full(spec, in_full)
        tensors = {name: value for path, leaf, _ in spec.leaves for name, value in leaf.tensors(arrays[path])}
        saved = {
            name: tensors[name] for path, leaf, shape in spec.leaves if path in whole for name in leaf.names(shape)
        }
        own = {*spec.layer_map.by_weight(), *saved}
        outside = rest.fingerprint(rest.of_arrays({name: value for name, value in tensors.items() if name not in own}))
        shapes = {name: value.shape for name, value in tensors.items()}
        id2label = dict(enumerate(labels)) if labels else None
        record = Base.of(base, spec.layer_map, shapes, tensors.get, architecture, id2label, rest=outside)
    elif in_full:
        raise LayerMapError("in_full names leaves of params; give those too")
    return save_adapter(AdapterFile(projection, spec.layer_map, stored, record, saved, {"theta": dtype}), file)


def load(file, params, names: Names = None) -> tuple[Adapter, object]:
    """(the adapter of a file for ``params``, the tree with the leaves that were trained in full in place); ``names`` as
    in ``plan``.

    Raises ``UniLoraError`` with the file's name where it is unsound or for another architecture; warns where the tree's
    numbers are not those that it was trained on (SPEC 10.2, 10.6).
    """
    adapter = load_adapter(file)
    leaves, arrays = named(params, names), dict(flattened(params)[0])
    shapes = {name: leaf.tensor_shape(shape) for leaf, shape in leaves.values() for name in leaf.names(shape)}
    adapter.check_base(shapes)
    adapter.check_saved(shapes)
    tensors = {name: value for path, (leaf, _) in leaves.items() for name, value in leaf.tensors(arrays[path])}
    if adapter.same_contents(tensors.get) is False:
        warnings.warn(
            f"the tree's weights are not those of {adapter.base.name}, which the adapter was trained on", stacklevel=2
        )
    for line in rest.warnings_of(adapter.other_rest(rest.of_arrays(tensors))):
        warnings.warn(line, stacklevel=2)
    spec = Specification(adapter.projection, adapter.layer_map, tuple((path, *held) for path, held in leaves.items()))
    if adapter.saved:
        there = {
            path: leaf
            for path, (leaf, shape) in leaves.items()
            if not adapter.saved.keys().isdisjoint(leaf.names(shape))
        }
        params = from_checkpoint(tensors | dict(adapter.saved), params, there)
    return Adapter(spec, jnp.asarray(adapter.theta)), params


def _in_full(spec, wanted) -> set[str]:
    paths = [path for path, _, _ in spec.leaves]
    found = {each: {path for path in paths if path == each or path.startswith(f"{each}.")} for each in wanted}
    if missing := [each for each, of_each in found.items() if not of_each]:
        raise LayerMapError(
            f"in_full names {missing[0]}, and no leaf of the checkpoint has that path; give paths of leaves that it has"
        )
    return set().union(*found.values())
