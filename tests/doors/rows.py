"""Files with rows to train on, and archives of them."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pyarrow
import pyarrow.parquet

from .door import PIPE, Door, Seed, written
from .small_base import BASE, TRAIN

ROW = b'{"text": "fine", "label": 1}\n'


def _zip(files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"))
    return out.getvalue()


def _parquet(rows, **options) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(rows), file, **options)
    return file.getvalue()


PARQUET = _parquet({"text": ["a"] * 9, "label": [1] * 9})
ROWS = {
    "jsonl": {
        "lists that nest": Seed(ROW * 9 + b'{"text": ' + b"[" * 100_000 + b"\n" + ROW, "nested deeper"),
        "lists that nest after a line that is broken": Seed(b'"\n' + b"[" * 100_000, "nested deeper"),
        "a million keys": Seed(
            written(lambda: b"{" + b",".join(b'"%d":1' % i for i in range(10**6)) + b"}"), "columns; 1,000 is the most"
        ),
        "a key of its own in each row": Seed(
            b"".join(b'{"%d":1}\n' % i for i in range(900)) + b"{}\n" * 10**5, "nearly all of them empty"
        ),
        "one line": Seed(written(lambda: b'{"text": "' + b"x" * 2**26 + b'"}'), "has a line of more than"),
        "an archive": Seed(written(lambda: gzip.compress(ROW * 10**6)), "would unfold to more"),
        "a small archive": Seed(gzip.compress(ROW * 9), "give more rows"),
        "a pipe": PIPE,
    },
    "json": {"lists that nest": Seed(b"[" * 100_000, "nested deeper"), "cut off": Seed(b"{", "could not be read")},
    "csv": {
        "a million columns": Seed(b"," * 10**6, "columns; 1,000 is the most"),
        "a text without an end": Seed(b'text,label\n"' + b"x,y\n" * 10**6, "could not be read"),
        "zeros": Seed(b"text,label\n\0\0,\0\n", "give more rows"),
        "UTF-16": Seed("text,label\na,1\n".encode("utf-16"), "give more rows"),
        "no text": Seed(bytes(range(256)) * 99, "this is not in UTF-8"),
        "semicolons": Seed(b"text;label\n" + b"a, b;1\n" * 9, "give more rows"),
        "an archive": Seed(gzip.compress(b"text,label\n" * 10**6), "would unfold to more"),
        "a tar": Seed(_tar(), "is an archive"),
        "an archive in an archive": Seed(gzip.compress(gzip.compress(b"text,label\n")), "is an archive in another one"),
        "gzip, cut off": Seed(gzip.compress(bytes(map(hash, range(99))))[:-9], "no sound gzip file"),
        "bz2": Seed(bz2.compress(b"text,label\n" * 10**5) * 100, "would unfold to more"),
        "xz": Seed(lzma.compress(b"text,label\n" * 10**5) * 100, "would unfold to more"),
        "xz that asks for a gigabyte": Seed(
            lzma.compress(b"text,label\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]), "no sound xz file"
        ),
        "zstd": Seed(pyarrow.compress(b"text,label\n" * 10**6, "zstd", asbytes=True), "would unfold to more"),
        "zip": Seed(_zip({"a.csv": b"text,label\n" * 10**6}), "would unfold to more"),
        "zip of two": Seed(_zip({"a.csv": b"", "b.csv": b""}), "an archive of 2 files"),
        "zip of a program": Seed(_zip({"a.py": b""}), "holds 'a.py'"),
    },
    "parquet": {
        "cut off": Seed(PARQUET[: len(PARQUET) // 2], "no Parquet file"),
        "a footer of 2 GB": Seed(
            b"PAR1" + b"\xff" * 99 + (2**31 - 1).to_bytes(4, "little") + b"PAR1", "no Parquet file"
        ),
        "a gigabyte of one text": Seed(
            _parquet({"text": ["x" * 10**6] * 100, "label": [1] * 100}, compression="zstd"), "would unfold to more"
        ),
    },
}

DOORS = [
    *(
        Door(f"rows, {form}", (*TRAIN, "--data", f"rows.{form}"), f"rows.{form}", BASE, seeds)
        for form, seeds in ROWS.items()
    ),
]
