"""The part of an ONNX file that one output needs, as a small graph whose weights stay in the file.

ONNX Runtime computes every node of a graph, whatever outputs a run asks for, and no package onnx is here to cut one. So the file is read as
protobuf has it: a message is fields, each with a number and a kind; a text, bytes or a message within has its length before it.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unilora_spec import UniLoraError

LEAST_OUTSIDE = 1024  # bytes: smaller tensors, of which shapes are computed, are written into the part
VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5  # kinds of fields
MOST_VARINT = 10  # bytes of a number

# The numbers of fields in onnx.proto.
MODEL_GRAPH = 7
NODE, INITIALIZER, OUTPUT = 1, 5, 12  # of a graph
NODE_INPUT, NODE_OUTPUT, NODE_ATTRIBUTE = 1, 2, 5
ATTRIBUTE_GRAPHS = (6, 11)
VALUE_NAME, TENSOR_NAME = 1, 8
TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_LOCATION = 9, 13, 14
EXTERNAL = 1  # of TENSOR_LOCATION


class Damaged(Exception):
    """What is no message of protobuf's."""


class Field(NamedTuple):
    """A field of a message: its bytes from ``begin`` to ``end``, its content from ``start`` on."""

    number: int
    kind: int
    begin: int
    start: int
    end: int


def part_for(path: Path, output: str) -> bytes:
    """The model in the file ``path`` with the one output ``output`` and the nodes and initializers that it needs; its inputs and functions stay.

    Tensors of ``LEAST_OUTSIDE`` bytes and more are references to ``path`` by its name. Raises ``UniLoraError`` where the file is no ONNX
    file or lacks the output.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Part(data, output.encode(), path.name.encode()).model()
        except (Damaged, ValueError):  # of an empty file
            raise UniLoraError(
                f"{path} is no ONNX file, or a damaged one; give a graph that python -m export onnx --mode step has written"
            ) from None
        except KeyError:
            raise UniLoraError(f"{path} has no output {output!r}, which a step needs; export it anew") from None


class _Part:
    def __init__(self, data: mmap.mmap, output: bytes, name: bytes):
        self.data, self.output, self.name = data, output, name

    def model(self) -> bytes:
        whole = Field(0, LENGTH, 0, 0, len(self.data))
        pieces = []
        for field in self.fields(whole):
            pieces.append(_message(MODEL_GRAPH, self.graph(field)) if field.number == MODEL_GRAPH else self.all(field))
        return b"".join(pieces)

    def graph(self, graph: Field) -> bytes:
        fields = list(self.fields(graph))
        outputs = {self.first(field, VALUE_NAME): field for field in fields if field.number == OUTPUT}
        needed, left_out = {self.output}, {field for name, field in outputs.items() if name != self.output}
        if self.output not in outputs:
            raise KeyError(self.output)
        for field in reversed(fields):  # a node comes behind those whose results it takes
            if field.number == NODE:
                if needed.isdisjoint(self.texts(field, NODE_OUTPUT)):
                    left_out.add(field)
                else:
                    needed.update(self.taken(field))
        pieces = []
        for field in fields:
            if field.number != INITIALIZER and field not in left_out:
                pieces.append(self.all(field))
            elif field.number == INITIALIZER and self.first(field, TENSOR_NAME) in needed:
                pieces.append(_message(INITIALIZER, self.tensor(field)))
        return b"".join(pieces)

    def taken(self, node: Field) -> Iterator[bytes]:
        """The names that a node takes, and those that nodes of graphs within it do."""
        waiting = [node]
        while waiting:
            each = waiting.pop()
            yield from self.texts(each, NODE_INPUT)
            for attribute in self.fields(each):
                if attribute.number == NODE_ATTRIBUTE:
                    graphs = (field for field in self.fields(attribute) if field.number in ATTRIBUTE_GRAPHS)
                    waiting += [field for graph in graphs for field in self.fields(graph) if field.number == NODE]

    def tensor(self, tensor: Field) -> bytes:
        """A tensor, its bytes where they are in the file."""
        fields = list(self.fields(tensor))
        raw = next((field for field in fields if field.number == TENSOR_RAW and field.kind == LENGTH), None)
        if raw is None or raw.end - raw.start < LEAST_OUTSIDE:
            return self.data[tensor.start : tensor.end]
        place = {b"location": self.name, b"offset": b"%d" % raw.start, b"length": b"%d" % (raw.end - raw.start)}
        entries = [_message(TENSOR_EXTERNAL, _message(1, key) + _message(2, value)) for key, value in place.items()]
        location = _varint(TENSOR_LOCATION << 3 | VARINT) + _varint(EXTERNAL)
        return b"".join([*(self.all(field) for field in fields if field is not raw), *entries, location])

    def all(self, field: Field) -> bytes:
        return self.data[field.begin : field.end]

    def texts(self, message: Field, number: int) -> list[bytes]:
        return [self.data[each.start : each.end] for each in self.fields(message) if each.number == number]

    def first(self, message: Field, number: int) -> bytes | None:
        return next(iter(self.texts(message, number)), None)

    def fields(self, message: Field) -> Iterator[Field]:
        if message.kind != LENGTH:
            raise Damaged
        at = message.start
        while at < message.end:
            tag, start = self.number(at, message.end)
            kind = tag & 7
            if kind == LENGTH:
                size, start = self.number(start, message.end)
            elif kind == VARINT:
                size = self.number(start, message.end)[1] - start
            elif kind in (EIGHT, FOUR):
                size = 8 if kind == EIGHT else 4
            else:
                raise Damaged
            if start + size > message.end:
                raise Damaged
            yield Field(tag >> 3, kind, at, start, start + size)
            at = start + size

    def number(self, at: int, end: int) -> tuple[int, int]:
        """A number and where it ends."""
        value = 0
        for shift, place in enumerate(range(at, min(end, at + MOST_VARINT))):
            value |= (self.data[place] & 127) << 7 * shift
            if self.data[place] < 128:
                return value, place + 1
        raise Damaged


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | LENGTH) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value >= 128:
        digits.append(value % 128 + 128)
        value //= 128
    return bytes([*digits, value])
