"""The data of a graph in files beside it: where they are, and whether they are the graph's own.

A graph names the files of its data. One that is not in the graph's folder, nor in the blobs of the snapshot of Hugging Face's cache
that the folder is, is never opened: its contents would be copied into the next graph that is written.
"""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx_ir as ir

from unilora_spec import UniLoraError
from unilora_spec.places import own_file

LEAST_EXTERNAL = 1024  # bytes: smaller tensors stay in the graph
READ_BY_INFERENCE = (ir.DataType.INT64, ir.DataType.INT32)  # shapes, and what they are computed from: they stay too


def resolve(model: ir.Model, path: Path) -> None:
    """Gives each external tensor of the graph in the file ``path`` the real place of its data, which is a regular file.

    It also resolves links into the cache's blobs, which onnx-ir itself refuses. The values of attributes are mapped, not
    read. Raises ``UniLoraError`` for data that are not the graph's own, or not so long as the graph says.
    """
    found = model.meta["data"] = set()

    def own(tensor):
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        settled = _resolved(tensor, path)
        found.add(Path(settled.path))
        return settled

    for graph in _graphs(model):
        for value in graph.initializers.values():
            value.const_value = own(value.const_value)
        for node in graph:
            for attribute in list(node.attributes.values()):
                one = attribute.type == ir.AttributeType.TENSOR
                tensors = (
                    [attribute.value]
                    if one
                    else attribute.value
                    if attribute.type == ir.AttributeType.TENSORS
                    else None
                )
                if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors or ()):  # none of a reference
                    mapped = [ir.Tensor(own(each).numpy(), dtype=each.dtype, name=each.name) for each in tensors]
                    node.attributes[attribute.name] = ir.Attr(
                        attribute.name, attribute.type, mapped[0] if one else mapped
                    )


def files(model: ir.Model) -> set[Path]:
    """The files that the data of a graph are in, as ``resolve`` found them."""
    return model.meta.get("data", set())


def _graphs(model: ir.Model) -> Iterator:
    """Every graph of a model: its own, those of its functions, and all within their nodes."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield graph
        yield from graph.subgraphs()


def write_data(model: ir.Model, folder: Path, renamed: Callable[[Path], Path] = lambda file: file) -> Path | None:
    """Writes the data of a graph's large tensors to one file in ``folder``, one tensor at a time, and makes the graph refer to it.

    Returns the file, to which ``renamed`` may give another name, or None where no tensor is large. The data of small tensors are in
    the graph then.
    """
    values = [v for graph in model.graphs() for v in graph.initializers.values() if v.const_value is not None]
    large = [v for v in values if v.const_value.nbytes > LEAST_EXTERNAL and v.dtype not in READ_BY_INFERENCE]
    load_data(set(values) - set(large))
    if not large:
        return None
    written = ir.external_data.convert_tensors_to_external([value.const_value for value in large], folder, "data")
    data = renamed(folder / "data")
    for value, old in zip(large, written):
        value.const_value = ir.ExternalTensor(
            data.name, old.offset, old.length, old.dtype, shape=old.shape, name=old.name, base_dir=folder
        )
    return data


def load_data(values) -> None:
    """Reads the data of those initializers that have them in files."""
    for value in values:
        if isinstance(value.const_value, ir.ExternalTensor):
            (value.const_value,) = ir.external_data.convert_tensors_from_external([value.const_value])


def own_data(path: Path, name: str, location: str, offset: int, length: int | None, needed: int) -> Path:
    """The file that has the data of a tensor of the graph in the file ``path``. Nothing is opened.

    The graph says that they are the ``length`` bytes from byte ``offset`` on of the file ``location``; the tensor's shape needs ``needed``
    bytes. Raises ``UniLoraError`` where the file is not the graph's own, or does not hold them.
    """
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    file = None if absolute or ".." in Path(location).parts else own_file(path.parent, location)
    if file is None:
        raise UniLoraError(
            f"the data of {name!r:.80} are said to be in {location!r:.80}, which is no regular file in the graph's folder; put the"
            " graph's own data there"
        )
    size, length = file.stat().st_size, length or needed
    if min(offset, needed) < 0 or length < needed or offset + length > size:
        raise UniLoraError(
            f"the data of {name!r:.80} are {needed:,} bytes, said to be {length:,} from byte {offset:,} on of {location!r:.80}, which has"
            f" {size:,}; get the whole file"
        )
    return file


def _resolved(tensor: ir.ExternalTensor, path: Path) -> ir.ExternalTensor:
    try:
        file = own_data(path, tensor.name, str(tensor.location or ""), tensor.offset or 0, tensor.length, tensor.nbytes)
    except UniLoraError as error:
        raise error.within(path) from None
    # Without a base_dir onnx-ir checks no place: this one is checked.
    return ir.ExternalTensor(
        str(file), tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name,
        doc_string=tensor.doc_string, metadata_props=dict(tensor.metadata_props),
    )  # fmt: skip
