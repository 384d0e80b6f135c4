"""Finds the tensors of a checkpoint in a tree of parameters: of Flax NNX, Linen, Equinox, or nested dictionaries.

An adapter's file has the names of a checkpoint, so that every backend reads it. A tree may hold the same numbers in
another form: a kernel as (in, out), its heads as an axis of their own, all layers in one array. A ``Leaf`` describes
the form of each leaf.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from unilora_spec import BaseMismatch, LayerMapError


class Leaf(NamedTuple):
    """Which tensor of a checkpoint a leaf of a tree holds, and in what form.

    ``name``        the tensor's name in the checkpoint; where all layers are in one array, with {} in place of the
                    layer's number
    ``axes``        the leaf's axes, without that of the layers, in the order of the tensor's axes, with a tuple where
                    several make up one: ((1,), (0,)) for a kernel (in, out) whose tensor is (out, in), ((1, 2), 0) for
                    one (in, heads, size), (3, 2, 0, 1) for a convolution (height, width, in, out); None where the leaf
                    has the tensor's axes
    ``transposed``  whether the tensor is (in, out) (SPEC 7.3), or, with three axes, a stack of such matrices (SPEC 7.5)
    ``stacked``     the leaf's axis that counts the layers; None where the leaf holds one tensor
    """

    name: str
    axes: tuple | None = None
    transposed: bool = False
    stacked: int | None = None

    def groups(self, ndim: int) -> list[tuple[int, ...]]:
        """For each axis of the tensor, the axes of a leaf with ``ndim`` axes that make it up. Raises ``LayerMapError``
        unless ``axes`` name each axis once."""
        rest = [axis for axis in range(ndim) if axis != self.stacked]
        axes = range(len(rest)) if self.axes is None else self.axes
        groups = [(group,) if isinstance(group, int) else tuple(group) for group in axes]
        if sorted(axis for group in groups for axis in group) != list(range(len(rest))):
            without = "" if self.stacked is None else " beside that of the layers"
            raise LayerMapError(
                f"the axes of {self.name} are {self.axes}; name each of the leaf's {len(rest)}{without} once"
            )
        return [tuple(rest[axis] for axis in group) for group in groups]

    def names(self, shape: tuple[int, ...]) -> list[str]:
        """The names of the tensors in a leaf with this shape."""
        return (
            [self.name]
            if self.stacked is None
            else [self.name.replace("{}", str(k)) for k in range(shape[self.stacked])]
        )

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor in a leaf with this ``shape``."""
        return tuple(int(np.prod([shape[axis] for axis in group])) for group in self.groups(len(shape)))

    def tensors(self, array) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, float32 array) of each tensor in a leaf."""
        array, shape = np.asarray(array, np.float32), self.tensor_shape(np.shape(array))
        order = [axis for group in self.groups(array.ndim) for axis in group]
        layers = [array] if self.stacked is None else np.moveaxis(array, self.stacked, 0)
        order = [axis - (self.stacked is not None and axis > self.stacked) for axis in order]
        for name, layer in zip(self.names(array.shape), layers):
            yield name, np.ascontiguousarray(layer.transpose(order).reshape(shape))

    def filled(self, array: np.ndarray, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """A leaf with the shape and dtype of ``array`` that holds the tensors which ``read`` gives by name."""
        groups = self.groups(array.ndim)
        order = [axis for group in groups for axis in group]
        split = [array.shape[axis] for axis in order]
        layers = [np.reshape(read(name), split) for name in self.names(array.shape)]
        stack = layers[0] if self.stacked is None else np.stack(layers)
        order = order if self.stacked is None else [self.stacked, *order]
        return stack.transpose(np.argsort(order)).astype(array.dtype)


Names = Mapping[str, Leaf | str] | Callable[[str, Array], Leaf | str | None] | None
"""How a user says which tensors leaves hold: by a table from paths, or by a function of path and array. A text in place
of a ``Leaf`` names a tensor that the leaf holds as it is; a leaf without a name is not of the checkpoint. None stands
for ``own``."""


def own(path: str, array: Array) -> Leaf:
    """The ``Leaf`` of a model without a checkpoint from elsewhere: a tensor is named by its path. A matrix is (in,
    out), as in JAX's libraries, unless it is an ``embedding``, or a ``weight``, as in Equinox."""
    return Leaf(path, transposed=np.ndim(array) == 2 and path.rpartition(".")[2] not in ("embedding", "weight"))


def from_torch(path: str, array: Array) -> Leaf:
    """The ``Leaf`` of a Flax model whose modules are named as PyTorch's: ``kernel``, ``scale`` and ``embedding`` are
    ``weight`` in PyTorch; a kernel (in, out) is transposed, and that of a convolution, (…, in, out), is (out, in,
    …)."""
    parent, _, last = path.rpartition(".")
    name = f"{parent}.weight".lstrip(".") if last in ("kernel", "scale", "embedding") else path
    n = np.ndim(array)
    return Leaf(name, (n - 1, n - 2, *range(n - 2)) if last == "kernel" and n > 1 else None)


def flattened(params) -> tuple[list[tuple[str, object]], object]:
    """(the leaves of a tree with their paths, keys and attributes joined by dots; the tree's structure, which
    unflattens them)."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    return [(path_of(keys), leaf) for keys, leaf in leaves], structure


def path_of(keys) -> str:
    """The path of a leaf, without the ``value`` at its end that NNX's variables have."""
    if len(keys) > 1 and keys[-1] == jax.tree_util.GetAttrKey("value"):
        keys = keys[:-1]
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def is_array(leaf) -> bool:
    """Whether a leaf is an array of floating-point numbers, which can be trained or adapted."""
    return hasattr(leaf, "shape") and jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)


def named(params, names: Names = None) -> dict[str, tuple[Leaf, tuple[int, ...]]]:
    """The ``Leaf`` and the shape of each named leaf of a tree, by path. Raises ``LayerMapError`` where two leaves have
    the same tensor, and for a table with a path that no leaf has."""
    ask = own if names is None else names if callable(names) else lambda path, array: names.get(path)
    leaves = {path: leaf for path, leaf in flattened(params)[0] if is_array(leaf)}
    if isinstance(names, Mapping) and (unknown := [path for path in names if path not in leaves]):
        raise LayerMapError(
            f"names has {unknown[0]}, and no leaf has that path; leaves are {', '.join(list(leaves)[:5])} …"
        )
    found, where = {}, {}
    for path, array in leaves.items():
        leaf = ask(path, array)
        if leaf is None:
            continue
        leaf = Leaf(leaf) if isinstance(leaf, str) else leaf
        found[path] = leaf, tuple(array.shape)
        for name in leaf.names(array.shape):
            if where.setdefault(name, path) != path:
                raise LayerMapError(f"{where[name]} and {path} are both named {name}; give each a name of its own")
    return found


def to_checkpoint(params, names: Names = None) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint that a tree holds, float32 by name."""
    arrays = dict(flattened(params)[0])
    return {
        name: value for path, (leaf, _) in named(params, names).items() for name, value in leaf.tensors(arrays[path])
    }


def from_checkpoint(tensors: Mapping[str, np.ndarray], params, names: Names = None):
    """A tree like ``params`` with the numbers of a checkpoint's ``tensors``, by name, in their dtypes. Raises ``BaseMismatch`` where one
    is missing or has another shape."""
    found, (leaves, structure) = named(params, names), flattened(params)
    return structure.unflatten(
        [_filled(tensors, found[path][0], array) if path in found else array for path, array in leaves]
    )


def _filled(tensors, leaf, array):
    def read(name):
        shape = leaf.tensor_shape(array.shape)
        if name not in tensors or np.shape(tensors[name]) != shape:
            there = f"has shape {list(np.shape(tensors[name]))}" if name in tensors else "is not there"
            raise BaseMismatch(
                f"the checkpoint's {name} {there}, and the tree wants {list(shape)}; give the tree's own", "10.3"
            )
        return tensors[name]

    return jax.numpy.asarray(leaf.filled(np.asarray(array), read))
