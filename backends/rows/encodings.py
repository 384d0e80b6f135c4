"""Finds the encoding of a text file by its bytes, and refuses a file whose bytes leave a doubt, for which --encoding is
needed."""

import codecs
import re
from pathlib import Path

import charset_normalizer

from unilora_spec import UniLoraError

PIECE = 2**20
SAMPLE = 2**15  # bytes of lines that are not ASCII; charset_normalizer takes half a second for so many
_MARKS = {  # in this order, as a mark of UTF-32 begins with one of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# The encodings that files of today have where it is not Unicode. Among all encodings, some rare one would always fit as
# well.
USUAL = ["cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "gb18030", "big5", "cp932", "euc_jp", "cp949"]
WESTERN = "cp1252"  # with latin-1, whose letters have the same bytes
_WESTERN = set("àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ«»“”„‘’‚–—…·•€£¥§°¿¡©®™½¼¾²³´¨×ªº\xa0\xad")
CLOSE = 0.02  # one reading is better than another only where charset_normalizer's measures differ by more


def encoding_of(path: Path, name) -> str:
    """The name of a file's encoding as Python has it. Raises ``UniLoraError`` where several are plausible.

    The encoding is taken from a mark at the start; else from zero bytes in every second place; else it is UTF-8 if the
    bytes are valid; else charset_normalizer says what fits. ``name`` is the file's name in messages.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        every_second, others = start[place::2], start[1 - place :: 2]
        if every_second.count(0) > 0.7 * len(every_second) and others.count(0) < 0.1 * len(others):
            return encoding
    return "utf-8" if _first_wrong(path, "utf-8") is None else _guessed(path, name)


def example(path: Path) -> str:
    """The first word of a text in UTF-8 that has other characters than those of ASCII."""
    with path.open(encoding="utf-8", newline="") as file:
        line = next(line for line in file if not line.isascii())
    return next(word for word in re.split(r"[\s,;|\"]+", line) if not word.isascii())


def check(path: Path, encoding: str, name) -> None:
    """Raises ``UniLoraError`` for a file that is not text of ``encoding``, with the line."""
    if wrong := _first_wrong(path, encoding):
        raise UniLoraError(f"{name}: line {wrong[0]} is not valid {encoding}: {wrong[1]}; give another --encoding")


def to_utf8(path: Path, encoding: str, target: Path) -> None:
    """Writes a file's text to ``target`` in UTF-8, without a mark."""
    with path.open(encoding=encoding, newline="") as file, target.open("w", encoding="utf-8", newline="") as out:
        while piece := file.read(PIECE):
            out.write(piece.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))


def _first_wrong(path, encoding) -> tuple[int, str] | None:
    """(line, what is wrong) of the first bytes that are invalid in an encoding; None where all are valid."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with path.open("rb") as file:
        while True:
            piece = file.read(PIECE)
            try:
                line += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as error:
                line += error.object[: error.start].decode(encoding, "replace").count("\n")
                return line, error.reason
            if not piece:
                return None


def _guessed(path, name):
    """cp1252, which Western programs write, if it gives letters of Western languages and charset_normalizer finds no
    better reading. charset_normalizer is reliable about whether a text is Western, and often wrong about which other
    encoding it has; in such a case ``UniLoraError`` is raised."""
    with path.open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if not line.isascii())
        sample = []
        for number, line in lines:
            sample.append((number, line))
            if sum(len(line) for _, line in sample) > SAMPLE:
                break
    text = b"".join(line for _, line in sample)
    found = charset_normalizer.from_bytes(text, cp_isolation=USUAL, enable_fallback=False)
    readings = {}
    for match in found:
        readings.setdefault(str(match), match)
    western = readings.pop(text.decode(WESTERN, "replace"), None)
    others = {character for character in text.decode(WESTERN, "replace") if not character.isascii()}
    if not others <= _WESTERN:
        western = None
    if western and not any(_better(other, western) for other in readings.values()):
        return WESTERN
    plausible = [WESTERN] * bool(western) + [other.encoding for other in readings.values()]
    number, line = sample[0]
    shown = [f"{_around(line.decode(encoding, 'replace'))!r} in {encoding}" for encoding in plausible[:3]]
    reads = f"line {number} reads {' or '.join(shown)}" if shown else f"see its line {number}"
    raise UniLoraError(f"{name}: this is not in UTF-8, and {reads}; give --encoding, such as cp1252")


def _better(one, other) -> bool:
    return one.chaos < other.chaos - CLOSE or (one.chaos <= other.chaos and one.coherence > other.coherence + CLOSE)


def _around(text) -> str:
    """The first character that is not ASCII, with some characters before and after it."""
    at = next(number for number, character in enumerate(text) if not character.isascii())
    return text[max(0, at - 10) : at + 15].strip()
