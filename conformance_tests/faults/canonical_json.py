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
        ("two high halves as a pair", "8.5", 'return text.encode("utf-8")', 'return re.sub("[\\ud800-\\udbff]{2}", "?", text).encode("utf-8")'),
        ("half a pair as a question mark", "8.5", 'return text.encode("utf-8")', 'return text.encode("utf-8", "replace")'),
        ("control characters in texts", "8.5", "parse_constant=_constant\n", "parse_constant=_constant, strict=False\n"),
        ("a tabulator in a text", "8.5", "            text, object_pairs_hook", '            re.sub(r"(?<=[a-zA-Z.])\\t", r"\\\\t", text), object_pairs_hook'),
        ("numbers of 33 characters", "8.5", "len(text) > 32 or not abs(value)", "len(text) > 33 or not abs(value)"),
        ("numbers of 31 characters", "8.5", "len(text) > 32 or not abs(value)", "len(text) > 31 or not abs(value)"),
        ("no minus zero", "8.5", "if len(text) > 17 or not", 'if text == "-0" or len(text) > 17 or not'),
        ("a depth of 15", "8.5", "MAX_DEPTH = 16", "MAX_DEPTH = 15"),
        ("other blanks at the ends", "8.5", "            text, object_pairs_hook", "            text.strip(), object_pairs_hook"),
        ("numbers of float32", "8.5", "    value = float(text)\n", '    import struct\n    value = struct.unpack("f", struct.pack("f", min(float(text), 1e38)))[0]\n'),
        ("numbers of 17 digits", "8.5", "    return json.dumps(value, ensure_ascii=False, allow_nan=False)", '    if isinstance(value, float):\n        return f"{value:.17g}"\n    return json.dumps(value, ensure_ascii=False, allow_nan=False)'),
        ("keys sorted by their bytes", "8.5", 'item[0].encode("utf-16-be", "surrogatepass")', 'item[0].encode("utf-8", "surrogatepass")'),
        ("escapes in capitals", "8.5", "    return json.dumps(value, ensure_ascii=False, allow_nan=False)", '    text = json.dumps(value, ensure_ascii=False, allow_nan=False)\n    return re.sub(r"\\\\u00(..)", lambda m: "\\\\u00" + m[1].upper(), text)'),
        ("DEL escaped", "8.5", "    return json.dumps(value, ensure_ascii=False, allow_nan=False)", '    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\\x7f", "\\\\u007f")'),
        ("UTF-8 that is mended", "8.5", 'text = data.decode("utf-8")', 'text = data.decode("utf-8", "replace")'),
        ("surrogates in UTF-8", "8.5", 'text = data.decode("utf-8")', 'text = data.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16", "replace")'),
    ),
]  # fmt: skip
