"""Files of rows as people have them: separators, quotes, encodings and compression are found, or asked for in one sentence."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pyarrow
import pytest

datasets = pytest.importorskip("datasets")

from runs import own_cache  # noqa: F401  fixtures

from backends.rows import packing
from backends.rows.reading import read
from backends.settings import TrainSettings
from backends.torch.tasks import rows_and_task
from unilora_spec import UniLoraError

ROWS = [("a fine, old film; really", "yes"), ('he said "no" | twice', "no"), ("two\nlines", "yes"), ("", "no")]
TEXTS, LABELS = zip(*ROWS)
CSV = 'text,label\n"a fine, old film; really",yes\n"he said ""no"" | twice",no\n"two\nlines",yes\n,no\n'


def csv_of(separator, quote_all=False):
    def cell(text):
        quoted = quote_all or any(sign in text for sign in f'{separator}"\n')
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return "".join(separator.join(map(cell, row)) + "\n" for row in [("text", "label"), *ROWS])


def zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return out.getvalue()


def zstd(data):
    return pyarrow.compress(data, "zstd", asbytes=True)


PACKED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
    "zip": lambda data: zipped(rows_csv=data),
}


def given(path, content, **options):
    """The texts, the labels and what is said of a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read(str(path), **options)
    rows = found.rows
    return tuple(rows["text"]), tuple(rows["label"]), [line.removeprefix(f"{path}: ") for line in found.said]


# Separators


@pytest.mark.parametrize("quote_all", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize(("separator", "word"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_separators_are_found_and_said(tmp_path, separator, word, name, quote_all):
    said = [] if separator == (",", "\t")[name == "a.tsv"] else [f"its separator is the {word}"]
    assert given(tmp_path / name, csv_of(separator, quote_all)) == (TEXTS, LABELS, said)
    assert given(tmp_path / name, csv_of(separator, quote_all), separator=separator) == (TEXTS, LABELS, [])


def test_line_ends_blank_lines_and_columns_without_a_name(tmp_path):
    content = ' text ,label,,\r\n"a, b",1,,\r\n\r\n   \r\nc,0,x\r\nd\r\n'
    assert given(tmp_path / "a.csv", content) == (("a, b", "c", "d"), ("1", "0", ""), [])
    assert read(str(tmp_path / "a.csv")).rows.column_names == ["text", "label"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_blank_cell_is_a_row_and_an_empty_line_is_none(tmp_path, end):
    """Of one column a line of blanks is a blank cell; of several it is none, and "" in quotes is a row of empty cells in both."""
    (tmp_path / "a.csv").write_text(end.join(["", "  ", "text", "a", '""', "", "  ", '" "', "b", ""]), newline="")
    assert read(str(tmp_path / "a.csv")).rows["text"] == ["a", "", "  ", " ", "b"]
    lines = ["  ", "text,label", "a,1", '""', "", "  ", ",", "b,0", "", " "]
    assert given(tmp_path / "b.csv", end.join(lines)) == (("a", "", "", "b"), ("1", "", "", "0"), [])


def test_two_plausible_separators_are_asked_for(tmp_path):
    content = "text,x;label\na,b;c\nd,e;f\n"
    with pytest.raises(
        UniLoraError, match=r"more than one separator fits its columns: comma \(text, x;label\) or semicolon"
    ):
        given(tmp_path / "a.csv", content)
    path = tmp_path / "b.csv"
    path.write_text(content)
    assert read(str(path), separator=";").rows.column_names == ["text,x", "label"]


def test_one_column_may_hold_every_separator(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"a, b; c"\nd\n')
    assert read(str(tmp_path / "a.csv")).rows["text"] == ["a, b; c", "d"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "text,label\na,1\nb, c,0\n",
            r"a\.csv: line 3 has 3 cells and the header 2; put quotes around a text that holds a comma",
        ),
        (
            'text,label\n"a\nb",1\nb,"x" y\n',
            r"the row that begins in line 4 could not be read: .*; write a quote within quotes twice",
        ),
        (
            'text,label\na,1\n"b,0\nc,1\n',
            r"the row that begins in line 3 could not be read: a quote is opened and never closed",
        ),
        ("text,label,text\na,1,b\n", "its first line has the column 'text' 2 times"),
        ("text,label\n", "no rows"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(tmp_path, content, words):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UniLoraError, match=words):
        rows_and_task(TrainSettings(base="b", data=tmp_path / "a.csv", output="v"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n\n{"text": "b", label: 0}\n',
            "could not be read: line 3: Expecting property name",
        ),
        (
            "a.json",
            '[{"text": "a", "label": 1},\n {"text": "b" "label": 0}]',
            "could not be read: line 2: Expecting ',' delimiter",
        ),
        ("a.jsonl", '{"text": "a"', "could not be read: line 1: Expecting"),
        ("a.jsonl", "", "it is empty; give a file with rows"),
    ],
)
def test_what_is_no_json_is_said_with_its_line(tmp_path, name, content, words):
    for path, packed in (
        (tmp_path / name, content.encode()),
        (tmp_path / f"{name}.gz", gzip.compress(content.encode())),
    ):
        path.write_bytes(packed)
        with pytest.raises(UniLoraError, match=words) as error:
            read(str(path))
        assert str(error.value).startswith(f"{path}: ")


def test_a_file_without_a_header_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("a fine film,1\na dull film,0\n")
    with pytest.raises(
        UniLoraError, match="its columns are 'a fine film', '1'; where its first line is a row, put a line with"
    ):
        rows_and_task(TrainSettings(base="b", data=tmp_path / "a.csv", output="v"))


def test_a_table_of_many_batches(tmp_path):
    count = 20_001
    texts, labels, _ = given(tmp_path / "a.csv", "text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(count)))
    assert texts == tuple(f"t{n}" for n in range(count)) and labels[-1] == "0"


# Encodings

WESTERN = "text,label\nCe film était très réussi – l’été à l'œuvre,Größe\n¿Qué tal?,Año\n"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", []),
        ("utf-8-sig", []),
        ("utf-16", ["it is read as utf-16"]),
        ("utf-16-le", ["it is read as utf-16-le"]),
        ("utf-16-be", ["it is read as utf-16-be"]),
        ("utf-32", ["it is read as utf-32"]),
        ("cp1252", ["it is read as cp1252, such as 'était'; --encoding says otherwise"]),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_encodings_are_found_and_said(tmp_path, encoding, said, form):
    rows = [dict(zip(("text", "label"), line.split(","))) for line in WESTERN.splitlines()[1:]]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    content = {"csv": WESTERN, "jsonl": lines, "json": json.dumps(rows, ensure_ascii=False, indent=1)}[form]
    texts, labels, told = given(tmp_path / f"a.{form}", content.encode(encoding))
    assert (texts, labels, told) == (tuple(row["text"] for row in rows), ("Größe", "Año"), said)
    assert given(tmp_path / f"a.{form}", content.encode(encoding), encoding=encoding) == (texts, labels, [])


def test_latin_1_is_read_as_cp1252_which_has_its_letters(tmp_path):
    content = "text,label\nl'été à la mer,Größe\n"
    assert given(tmp_path / "a.csv", content.encode("latin-1"))[:2] == (("l'été à la mer",), ("Größe",))


@pytest.mark.parametrize("encoding", ["cp1250", "shift_jis", "cp1251", "cp1254", "mac-roman"])
def test_other_encodings_are_asked_for(tmp_path, encoding):
    """charset_normalizer takes the Japanese for Korean, and is sure of it; cp1252 has letters for the last two that no Western language has."""
    texts = {
        "cp1250": "zażółć gęślą",
        "shift_jis": "とても良い映画でした",
        "cp1251": "Очень хороший фильм",
        "cp1254": "müziği beğendim",
        "mac-roman": "schön und großartig",
    }
    content = f"text,label\n{texts[encoding]},1\n".encode(encoding)
    with pytest.raises(UniLoraError, match=r"this is not in UTF-8, and .*line 2.*; give --encoding, such as cp1252"):
        given(tmp_path / "a.csv", content)
    assert given(tmp_path / "a.csv", content, encoding=encoding)[0] == (texts[encoding],)


def test_a_wrong_encoding_is_refused_with_the_line(tmp_path):
    with pytest.raises(
        UniLoraError, match="line 3 is not valid ascii: ordinal not in range.*; give another --encoding"
    ):
        given(tmp_path / "a.csv", "text,label\na,1\nß,0\n", encoding="ascii")
    with pytest.raises(UniLoraError, match="--encoding is 'rot13'; give a name such as utf-8, utf-16 or cp1252"):
        TrainSettings(base="b", data="d", output="v", encoding="rot13")
    with pytest.raises(UniLoraError, match="--separator is 'ab'; give comma, semicolon, tab or bar, or a character"):
        TrainSettings(base="b", data="d", output="v", separator="ab")
    assert TrainSettings(base="b", data="d", output="v", separator="tab").separator == "\t"


# Compressed


@pytest.mark.parametrize("end", PACKED)
def test_compressed_files(tmp_path, end):
    assert given(tmp_path / f"a.csv.{end}", PACKED[end](CSV.encode())) == (TEXTS, LABELS, [])
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS).encode()
    packed = zipped(rows_jsonl=lines) if end == "zip" else PACKED[end](lines)
    assert given(tmp_path / f"a.jsonl.{end}", packed) == (TEXTS, LABELS, [])
    kind = {"gz": "gzip", "zst": "zstd"}.get(end, end)
    if end != "zip":  # whose file says its own name
        assert given(tmp_path / "a.csv", PACKED[end](CSV.encode())) == (TEXTS, LABELS, [f"it is unpacked, {kind}"])


def test_a_packed_file_that_changes_is_read_anew(tmp_path):
    for label in ("x", "y"):
        content = json.dumps({"text": "a", "label": label}).encode()
        assert given(tmp_path / "a.jsonl.gz", gzip.compress(content))[1] == (label,)
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder/train.jsonl.gz").write_bytes(gzip.compress(content))
        assert read(str(tmp_path / "folder")).rows["label"] == [label]


def test_a_zip_as_kaggle_has_them(tmp_path):
    path = tmp_path / "archive.zip"
    path.write_bytes(zipped(reviews_csv=CSV))
    assert tuple(read(str(path)).rows["text"]) == TEXTS
    for files, words in (
        ({"a_csv": "", "b_csv": ""}, "an archive of 2 files; unpack it, and give the one that has the rows"),
        ({"a_py": ""}, "holds 'a.py'; the name of a data file ends in"),
    ):
        path.write_bytes(zipped(**files))
        with pytest.raises(UniLoraError, match=words):
            read(str(path))


@pytest.mark.parametrize("end", PACKED)
def test_a_small_file_costs_no_gigabyte(tmp_path, end, monkeypatch):
    """None of what is beyond the bound is written, and no more of it is unfolded than a piece."""
    packed = PACKED[end](b"text,label\n" + b"a,1\n" * 2_000_000)
    path = tmp_path / f"a.csv.{end}"
    path.write_bytes(packed)
    times, plus = packing.UNFOLDED
    most = times * len(packed) + plus
    assert most < 8_000_000
    with pytest.raises(UniLoraError, match=f"has {len(packed):,} bytes and would unfold to more than {most:,}"):
        read(str(path))
    with pytest.raises(UniLoraError, match="would unfold to more"):
        packing.unfold(path, packing.kind_of(path), tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= most
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / path.name).write_bytes(packed)
    with pytest.raises(UniLoraError, match="would unfold to more"):
        read(str(tmp_path / "folder"))


@pytest.mark.parametrize("end", PACKED)
def test_damaged_archives(tmp_path, end):
    packed = PACKED[end](CSV.encode() * 99)
    for damaged in (packed[: len(packed) // 2], packed[:20] + bytes(20) + packed[40:]):
        (tmp_path / f"a.csv.{end}").write_bytes(damaged)
        with pytest.raises(UniLoraError, match=r"this is no sound \w+ file: .*; pack it anew, or give it unpacked"):
            read(str(tmp_path / f"a.csv.{end}"))


def test_an_xz_file_that_asks_for_a_gigabyte_of_memory_is_refused(tmp_path):
    path = tmp_path / "a.csv.xz"
    path.write_bytes(lzma.compress(CSV.encode(), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]))
    with pytest.raises(UniLoraError, match="this is no sound xz file: Memory usage limit"):
        read(str(path))
    path.write_bytes(lzma.compress(CSV.encode(), preset=9))
    assert len(read(str(path)).rows) == 4


def test_several_streams_in_one_file(tmp_path):
    first, second = CSV.encode(), b"more,yes\n"
    for end in ("gz", "bz2", "xz", "zst"):
        texts, _, _ = given(tmp_path / f"a.csv.{end}", PACKED[end](first) + PACKED[end](second))
        assert texts == (*TEXTS, "more"), end


def test_archives_of_other_kinds_are_refused(tmp_path):
    for start in (b"Rar!\x1a", b"7z\xbc\xaf", b"\x04\x22\x4d\x18", bytes(257) + b"ustar"):
        (tmp_path / "a.csv").write_bytes(start + bytes(99))
        with pytest.raises(UniLoraError, match=r"is an archive; unpack it"):
            read(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(gzip.compress(CSV.encode())))
    with pytest.raises(UniLoraError, match="an archive in another one"):
        read(str(tmp_path / "a.csv.gz"))


# What is wrong with a row, of other tasks than the one that is asked for


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        (
            {"messages": [{"role": "user", "content": "a"}]},
            {},
            "no column 'text'; its columns are 'messages'; chats and answers are for",
        ),
        ({"tokens": ["a"], "ner_tags": ["O"]}, {}, "words and their tags are for --task token-classification"),
        (
            {"text": [{"role": "user"}], "label": 1},
            {},
            "text of row 1 is a list of objects, .* a chat is for --task causal-lm",
        ),
        ({"text": 5, "label": 1}, {}, "text of row 1 is '5', which is no text; give --text a column of texts"),
        (
            {"text": "a", "label": [1, 0]},
            {},
            "label of row 1 is .*; give a column with one label, or --task multi-label",
        ),
        (
            {"text": "a", "label": "x"},
            {"task": "regression"},
            "label of row 1 is 'x'; regression needs numbers, such as 0.5",
        ),
    ],
)
def test_a_wrong_row_is_named_with_the_mend(tmp_path, row, options, words):
    (tmp_path / "a.jsonl").write_text((json.dumps(row) + "\n") * 2)
    with pytest.raises(UniLoraError, match=words):
        rows_and_task(TrainSettings(base="b", data=tmp_path / "a.jsonl", output="v", **options))
