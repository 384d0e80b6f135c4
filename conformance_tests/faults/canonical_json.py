"""Faults in JSON (SPEC 8.5)."""

from . import of

FAULTS = [
    *of(
        "canonical_json.py",
        ("a key twice accepted", "8.5", "if len(value) != len(pairs):", "if False:"),
        ("keys sorted by code points", "8.5", 'key=lambda item: item[0].encode("utf-16-be", "surrogatepass")', "key=lambda item: item[0]"),
        ("texts escaped beyond need", "8.5", "ensure_ascii=False", "ensure_ascii=True"),
        ("whole numbers with a point", "8.5", "if isinstance(value, float) and value.is_integer():", "if False:"),
        ("JSON with blanks", "8.5", '"{" + ",".join', '"{" + ", ".join'),
        ("a byte order mark accepted", "8.5", 'text = data.decode("utf-8")', 'text = data.decode("utf-8-sig")'),
    ),
]  # fmt: skip
