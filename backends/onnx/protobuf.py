"""A file as protobuf has it: a message is fields, each with a number and a kind; a text, bytes or a message within has its length before it.

There is no package onnx here. The numbers of fields are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from typing import NamedTuple

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5  # kinds of fields
MOST_VARINT = 10  # bytes of a number

MODEL_GRAPH, MODEL_FUNCTION = 7, 25
NODE, INITIALIZER, OUTPUT = 1, 5, 12  # of a graph
FUNCTION_NAME, FUNCTION_NODE, FUNCTION_DOMAIN, FUNCTION_OVERLOAD = 1, 7, 10, 13
NODE_INPUT, NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN, NODE_OVERLOAD = 1, 2, 4, 5, 7, 8
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


class Messages:
    """The messages in ``data``, of which ``whole`` is the one that has all others in it."""

    def __init__(self, data: mmap.mmap):
        self.data, self.whole = data, Field(0, LENGTH, 0, 0, len(data))

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

    def within(self, node: Field) -> Iterator[Field]:
        """A node, and those of graphs within it, however deep."""
        waiting = [node]
        while waiting:
            yield (each := waiting.pop())
            for attribute in self.fields(each):
                if attribute.number == NODE_ATTRIBUTE:
                    graphs = (field for field in self.fields(attribute) if field.number in ATTRIBUTE_GRAPHS)
                    waiting += [field for graph in graphs for field in self.fields(graph) if field.number == NODE]


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | LENGTH) + varint(len(content)) + content


def varint(value: int) -> bytes:
    digits = []
    while value >= 128:
        digits.append(value % 128 + 128)
        value //= 128
    return bytes([*digits, value])
