"""The data of a graph in files beside it: where they are, and that they are the graph's own.

A graph names each file in a text of its own. One that is not in the graph's folder, nor in the blobs of the snapshot of Hugging
Face's cache that the folder is, is never opened: what it holds would be in the next graph that is written.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx_ir as ir

from unilora_spec import UniLoraError
from unilora_spec.places import own_file

LEAST = 1024  # bytes: smaller tensors stay in the graph
READ_BY_INFERENCE = (ir.DataType.INT64, ir.DataType.INT32)  # shapes, and what they are computed of: they stay as well


def put_beside(model: ir.Model, path: Path) -> None:
    """Writes the tensors of a graph that may lie outside of it into the file ``path``, and lets the graph refer to them there; the others are in
    the graph itself then. One is in memory at a time."""
    values = [value for graph in model.graphs() for value in graph.initializers.values() if value.const_value is not None]
    large = [value for value in values if value.const_value.nbytes > LEAST and value.dtype not in READ_BY_INFERENCE]
    apart = set(large)
    take_in(value for value in values if value not in apart)
    tensors = [value.const_value for value in large]
    written = ir.external_data.convert_tensors_to_external(tensors, path.parent, path.name) if large else []
    for value, tensor in zip(large, written):
        value.const_value = tensor


def take_in(values) -> None:
    """Reads the data of values that are in a file of others."""
    for value in values:
        if isinstance(value.const_value, ir.ExternalTensor):
            (value.const_value,) = ir.external_data.convert_tensors_from_external([value.const_value])


def settle(model: ir.Model, path: Path) -> None:
    """Gives each external tensor of the graph in the file ``path`` the real place of its data, which is a regular file.

    Links into the cache's blobs are resolved by this, at which onnx-ir itself refuses. The values of attributes are
    mapped, not read. Raises ``UniLoraError`` for data that are not the graph's own, or not so long as the graph says.
    """
    found = model.meta["data"] = set()

    def own(tensor):
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        settled = _settled(tensor, path)
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
    """The files that the data of a graph are in, as ``settle`` found them."""
    return model.meta.get("data", set())


def _graphs(model: ir.Model) -> Iterator:
    """Every graph of a model: its own, those of its functions, and all within their nodes."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield graph
        yield from graph.subgraphs()


def own_data(path: Path, name: str, location: str, offset: int, length: int | None, needed: int) -> Path:
    """The file that has the data of a tensor of the graph in the file ``path``. Nothing is opened.

    The graph says that they are the ``length`` bytes from byte ``offset`` on of the file ``location``, and its shape that ``needed`` are.
    Raises ``UniLoraError`` where they are not the graph's own, or not there.
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


def _settled(tensor: ir.ExternalTensor, path: Path) -> ir.ExternalTensor:
    try:
        file = own_data(path, tensor.name, str(tensor.location or ""), tensor.offset or 0, tensor.length, tensor.nbytes)
    except UniLoraError as error:
        raise error.within(path) from None
    # Without a base_dir onnx-ir checks no place: this one is checked.
    return ir.ExternalTensor(
        str(file), tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name,
        doc_string=tensor.doc_string, metadata_props=dict(tensor.metadata_props),
    )  # fmt: skip
