"""Faults in the file (SPEC 8)."""

from . import of

FAULTS = [
    *of(
        "serialization.py",
        ("trailing bytes accepted", "8.2", "if end != size - 8 - length:", "if end > size - 8 - length:"),
        ("overlap accepted", "8.2", "if begin != end:", "if begin > end:"),
        ("a gap accepted", "8.2", "if begin != end:", "if begin < end:"),
        ("a product that wraps at 64 bits", "8.2", '* _SIZES[entry["dtype"]]\n', '* _SIZES[entry["dtype"]] % 2**64\n'),
        ("a huge shape behind a zero accepted", "8.2", 'math.prod(filter(None, entry["shape"]))', 'math.prod(entry["shape"])'),
        ("truth for a number", "8.2", "type(v) is int and v >= 0", "isinstance(v, int) and v >= 0"),
        ("a header of any length", "8.2", "MAX_HEADER = 2**18", "MAX_HEADER = 2**30"),
        ("NaN accepted", "8.3", "finite = np.isfinite(value)", "finite = ~np.isinf(value)"),
        ("infinity accepted", "8.3", "finite = np.isfinite(value)", "finite = ~np.isnan(value)"),
        ("BF16 cut off, not rounded", "8.3", "((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)", "(bits >> 16)"),
        ("BF16 with ties upwards", "8.3", "(bits + 0x7FFF + ((bits >> 16) & 1))", "(bits + 0x8000)"),
        ("F16 that saturates", "8.3", "stored = value.astype(_NUMPY[dtype])", "stored = np.clip(value, *((-65504, 65504) if dtype == 'F16' else (None, None))).astype(_NUMPY[dtype])"),
        ("unknown version accepted", "8.4", 'if (version := metadata.get("version")) != VERSION:', 'if (version := metadata.get("version")) is None:'),
        ("the version looked at last", "8.4", 'header, start = read_header(data, first=_check_version)\n    metadata = header.pop("__metadata__")',
         'header, start = read_header(data)\n    metadata = header.pop("__metadata__", {})\n    _check_version(metadata)'),
        ("unknown fields ignored", "8.6", "if key not in known:", "if key not in known:\n            continue\n        if False:"),
        ("a seed with a zero before it", "8.6", 'r"0|[1-9][0-9]{0,19}"', 'r"[0-9]{1,20}"'),
        ("digits of other scripts in a seed", "8.6", 'r"0|[1-9][0-9]{0,19}"', r'r"0|[1-9]\d{0,19}|[^\W0-9]\d*"'),
        ("the default scaling written out", "8.6", 'if adapter.layer_map.scaling != "lora":', "if True:"),
        ("fingerprints in capitals", "8.6", '"[0-9a-f]{32}"', '"[0-9a-fA-F]{32}"'),
        ("tensors in the order of their names alone", "8.7", "(-_SIZES[item[1][0]], item[0])", "item[0]"),
        ("smaller elements first", "8.7", "(-_SIZES[item[1][0]], item[0])", "(_SIZES[item[1][0]], item[0])"),
        ("a header without padding", "8.7", 'head += b" " * (-len(head) % 8)', 'head += b""'),
        ("padding as if the length were in the header", "8.7", 'head += b" " * (-len(head) % 8)', 'head += b" " * (-len(head) % 16)'),
        ("every file called canonical", "8.10", "return encode(adapter) == bytes(data)", "return True"),
    ),
]  # fmt: skip
