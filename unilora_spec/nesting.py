"""How deep a JSON text nests and how many values it has, counted before a parser sees it: deep nesting overflows the stack of a parser,
and a parsed value takes fifty times the memory of its text."""

import numpy as np

PIECE = 2**20
_QUOTE, _OPEN, _CLOSE, _NEXT, _LINE = 1, 2, 3, 4, 5
_CLASS = np.zeros(256, np.uint8)
for _characters, _class in ((b'"', _QUOTE), (b"[{", _OPEN), (b"]}", _CLOSE), (b",:", _NEXT), (b"\n", _LINE)):
    _CLASS[list(_characters)] = _class


class Nesting:
    """Upper bounds of a text that is fed piece by piece.

    ``deepest``  how many lists and objects lie in each other at most
    ``values``   values and keys
    ``opened``   lists and objects

    The bounds hold for malformed text too, as far as any parser reads it: no JSON string contains a line feed, so that each line begins
    outside of a string; and a bracket that closes nothing is not counted.
    """

    def __init__(self) -> None:
        self.deepest, self.values, self.opened = 0, 1, 0
        self._depth, self._in_string, self._rest = 0, False, b""

    def feed(self, piece: bytes) -> None:
        """The next bytes of the text, in UTF-8."""
        piece = self._rest + piece
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        whole = len(piece) - backslashes % 2  # what a last backslash escapes is in the next piece
        piece, self._rest = piece[:whole], piece[whole:]
        if backslashes or b"\\" in piece:  # without its escapes, a string ends at the next quote
            piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        found = _CLASS[np.frombuffer(piece, np.uint8)]
        found = found[found > 0]
        if not len(found):
            return
        quotes = np.cumsum(found == _QUOTE, dtype=np.int32) + self._in_string
        at_line = np.maximum.accumulate(np.where(found == _LINE, quotes, 0))
        in_string = (quotes - at_line) % 2 > 0
        self._in_string = bool(in_string[-1])
        found[in_string] = 0
        opened, closed = found == _OPEN, found == _CLOSE
        begun = int(np.count_nonzero(opened))
        self.opened += begun
        self.values += begun + int(np.count_nonzero(found == _NEXT))
        depth = self._depth + np.cumsum(opened.astype(np.int32) - closed)
        depth -= np.minimum(np.minimum.accumulate(depth), 0)
        self._depth = int(depth[-1])
        self.deepest = max(self.deepest, int(depth.max()))


def nesting(data: bytes) -> Nesting:
    """The bounds of a whole text.

    >>> found = nesting(b'{"a[[[": [1, [2, "\\\\"]"]]}')
    >>> found.deepest, found.values
    (3, 7)
    """
    found = Nesting()
    for at in range(0, len(data), PIECE):
        found.feed(data[at : at + PIECE])
    return found
