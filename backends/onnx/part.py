"""What a graph's file asks for, and the part of it that one output needs, as a small graph whose weights stay in the file.

ONNX Runtime computes every node of a graph, whatever outputs a run asks for.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unilora_spec import UniLoraError
from unilora_spec.calls import Body, check_calls
from unilora_spec.documents import size_of

from . import protobuf
from .protobuf import Damaged, Field, Messages, message, varint

LEAST_OUTSIDE = 1024  # bytes: smaller tensors, of which shapes are computed, are written into the part


def check_graph(path: Path) -> None:
    """Raises ``UniLoraError`` where the file ``path`` is no ONNX file, or its functions stand for more nodes than any model has."""
    with _messages(path) as messages:
        models = list(messages.fields(messages.whole))
        functions = {_called(messages, each, protobuf.FUNCTION_DOMAIN, protobuf.FUNCTION_NAME, protobuf.FUNCTION_OVERLOAD): (each, protobuf.FUNCTION_NODE)
                     for each in models if each.number == protobuf.MODEL_FUNCTION}  # fmt: skip
        graphs = [(each, protobuf.NODE) for each in models if each.number == protobuf.MODEL_GRAPH]
        if len(graphs) != 1:
            raise Damaged
        try:
            check_calls(
                _counted(messages, *graphs[0], functions),
                {key: _counted(messages, *body, functions) for key, body in functions.items()},
            )
        except UniLoraError as error:
            raise error.within(path) from None


def _called(messages, field, *numbers) -> tuple[str, ...]:
    return tuple((messages.first(field, number) or b"").decode("utf-8", "replace") for number in numbers)


def _counted(messages, graph, number, functions) -> Body:
    nodes, calls = 0, Counter()
    for field in messages.fields(graph):
        for node in messages.within(field) if field.number == number else ():
            nodes += 1
            if (
                key := _called(messages, node, protobuf.NODE_DOMAIN, protobuf.NODE_TYPE, protobuf.NODE_OVERLOAD)
            ) in functions:
                calls[key] += 1
    return Body(nodes, calls)


def part_for(path: Path, output: str) -> bytes:
    """The model in the file ``path`` with the one output ``output`` and the nodes and initializers that it needs; its inputs and functions stay.

    Tensors of ``LEAST_OUTSIDE`` bytes and more are references to the file by its name, that of the file itself where ``path`` is a link. Raises
    ``UniLoraError`` where it is no ONNX file or lacks the output.
    """
    with _messages(path) as messages:
        try:
            return _Part(messages, output.encode(), path.resolve().name.encode()).model()
        except KeyError:
            raise UniLoraError(f"{path} has no output {output!r}, which a step needs; export it anew") from None


@contextmanager
def _messages(path: Path) -> Iterator[Messages]:
    with path.open("rb") as file:
        try:
            if not size_of(path):
                raise Damaged
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield Messages(data)
        except Damaged:
            raise UniLoraError(
                f"{path} is no ONNX file, or a damaged one; give a graph that python -m export onnx --mode step has written"
            ) from None


class _Part:
    def __init__(self, messages: Messages, output: bytes, name: bytes):
        self.messages, self.output, self.name = messages, output, name

    def model(self) -> bytes:
        pieces = []
        for field in self.messages.fields(self.messages.whole):
            is_graph = field.number == protobuf.MODEL_GRAPH
            pieces.append(message(protobuf.MODEL_GRAPH, self.graph(field)) if is_graph else self.messages.all(field))
        return b"".join(pieces)

    def graph(self, graph: Field) -> bytes:
        fields = list(self.messages.fields(graph))
        outputs = {
            self.messages.first(field, protobuf.VALUE_NAME): field
            for field in fields
            if field.number == protobuf.OUTPUT
        }
        needed, left_out = {self.output}, {field for name, field in outputs.items() if name != self.output}
        if self.output not in outputs:
            raise KeyError(self.output)
        for field in reversed(fields):  # a node comes behind those whose results it takes
            if field.number == protobuf.NODE:
                if needed.isdisjoint(self.messages.texts(field, protobuf.NODE_OUTPUT)):
                    left_out.add(field)
                else:
                    needed.update(self.taken(field))
        pieces = []
        for field in fields:
            if field.number != protobuf.INITIALIZER and field not in left_out:
                pieces.append(self.messages.all(field))
            elif field.number == protobuf.INITIALIZER and self.messages.first(field, protobuf.TENSOR_NAME) in needed:
                pieces.append(message(protobuf.INITIALIZER, self.tensor(field)))
        return b"".join(pieces)

    def taken(self, node: Field) -> Iterator[bytes]:
        """The names that a node takes, and those that nodes of graphs within it do."""
        for each in self.messages.within(node):
            yield from self.messages.texts(each, protobuf.NODE_INPUT)

    def tensor(self, tensor: Field) -> bytes:
        """A tensor, its bytes where they are in the file."""
        fields = list(self.messages.fields(tensor))
        raw = next(
            (field for field in fields if field.number == protobuf.TENSOR_RAW and field.kind == protobuf.LENGTH), None
        )
        if raw is None or raw.end - raw.start < LEAST_OUTSIDE:
            return self.messages.data[tensor.start : tensor.end]
        place = {b"location": self.name, b"offset": b"%d" % raw.start, b"length": b"%d" % (raw.end - raw.start)}
        entries = [
            message(protobuf.TENSOR_EXTERNAL, message(1, key) + message(2, value)) for key, value in place.items()
        ]
        location = varint(protobuf.TENSOR_LOCATION << 3 | protobuf.VARINT) + varint(protobuf.EXTERNAL)
        return b"".join([*(self.messages.all(field) for field in fields if field is not raw), *entries, location])
