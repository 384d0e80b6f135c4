"""SPEC chapters 7, 8 and 10 for a writer: the canonical bytes of a description and its tensors.

A description is the object of SPEC 8.6 with its segments one by one in ``layers``; tensors are lists of Python floats.
"""

import hashlib
import json
import math
import re
import struct

from .arithmetic import f32

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4}
CODES = {"F32": "f", "F16": "e", "I32": "i"}


# Canonical JSON (SPEC 8.5)


def canonical(value) -> str:
    if isinstance(value, dict):
        by_code_units = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in by_code_units) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float) and value == math.floor(value):
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


# Layer map (SPEC 7)


def plain(segment):
    """A segment without the fields that say the default."""
    return {key: value for key, value in segment.items() if (key, value) != ("transposed", False)}


def size(segment):
    if segment["rank"] == 0:
        return segment["in"] * segment["out"]
    return segment["rank"] * (segment["in"] + segment["out"])


def unfold(entries):
    """The segments of a compact form (SPEC 7.8)."""
    result = []
    for entry in entries:
        if "layers" in entry:
            for number in range(*entry["layers"]):
                for inner in entry["segments"]:
                    result += unfold([{**inner, "name": f"{entry['prefix']}{number}{inner['name']}"}])
        elif isinstance(entry.get("index"), list):
            result += [plain({**entry, "index": index}) for index in range(*entry["index"])]
        else:
            result.append(plain(entry))
    return result


def fold(segments):
    """The canonical compact form (SPEC 7.9). Quadratic, as the text reads."""
    return runs(stacks([plain(segment) for segment in segments]))


def stacks(objects):
    kept = []
    for segment in objects:
        last = kept[-1] if kept else {}
        if "index" in segment and "index" in last and {**last, "index": 0} == {**segment, "index": 0}:
            first, end = last["index"] if isinstance(last["index"], list) else (last["index"], last["index"] + 1)
            if end == segment["index"]:
                kept[-1] = {**last, "index": [first, end + 1]}
                continue
        kept.append(segment)
    return kept


def has(name, head):
    return name == head or name.startswith(head + ".")


def runs(objects):
    result, p = [], 0
    while p < len(objects):
        run, taken = run_at(objects, p)
        result.append(run)
        p += taken
    return result


def run_at(objects, p):
    parts = objects[p]["name"].split(".")
    numbers = [at for at, part in enumerate(parts) if re.fullmatch("0|[1-9][0-9]{0,8}", part, re.ASCII)][:8]
    for at in numbers:
        n, prefix = int(parts[at]), "".join(part + "." for part in parts[:at])
        head = f"{prefix}{n}"
        b = 0
        while p + b < len(objects) and has(objects[p + b]["name"], head):
            b += 1
        block = [{**entry, "name": entry["name"][len(head) :]} for entry in objects[p : p + b]]
        c = 1
        while objects[p + c * b : p + (c + 1) * b] == [
            {**entry, "name": f"{prefix}{n + c}{entry['name']}"} for entry in block
        ]:
            c += 1
        if c >= 2:
            return {"layers": [n, n + c], "prefix": prefix, "segments": block}, b * c
    return objects[p], 1


def factor_scale(description, segment):
    """s of ΔW = s·B·A, and of the entries of a ΔW that θ_D holds itself (SPEC 7.7)."""
    r = segment["rank"] or 1
    return f32(description["alpha"] / (math.sqrt(r) if description.get("scaling") == "rslora" else r))


def delta(s, theta_D):
    """The entries of a ΔW of rank 0 (SPEC 7.7). Both factors have 24 bits: their product is exact, and rounded once."""
    return [f32(s * value) for value in theta_D]


# File (SPEC 8)


def describe(description) -> str:
    """The canonical text of a description (SPEC 8.6)."""
    shorter = {**description, "layers": fold(description["layers"])}
    if shorter.get("scaling") == "lora":
        del shorter["scaling"]
    return canonical(shorter)


def stored(values, dtype) -> bytes:
    """A tensor's bytes (SPEC 8.3)."""
    if dtype == "BF16":
        words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
        return struct.pack(f"<{len(values)}H", *((w + 0x7FFF + ((w >> 16) & 1)) >> 16 for w in words))
    return struct.pack(f"<{len(values)}{CODES[dtype]}", *values)


def widened(data: bytes, dtype) -> list[float]:
    """The float32 values of a tensor's bytes (SPEC 8.3)."""
    if dtype == "BF16":
        words = struct.unpack(f"<{len(data) // 2}H", data)
        data, dtype = struct.pack(f"<{len(words)}I", *(word << 16 for word in words)), "F32"
    return list(struct.unpack(f"<{len(data) // SIZES[dtype]}{CODES[dtype]}", data))


def metadata(text) -> dict:
    return {"format": "unilora", "version": "1", "unilora": text}


def container(header: str, data: bytes) -> bytes:
    """A file of a header's text and the data, nothing changed (SPEC 8.2)."""
    text = header.encode("utf-8")
    return struct.pack("<Q", len(text)) + text + data


def write(description, tensors) -> bytes:
    """The canonical file (SPEC 8.7); ``tensors`` by name: (dtype, shape, values)."""
    header, data = {"__metadata__": metadata(describe(description))}, b""
    for name in sorted(tensors, key=lambda name: (-SIZES[tensors[name][0]], name.encode("utf-8"))):
        dtype, shape, values = tensors[name]
        piece = stored(values, dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = canonical(header)
    return container(text + " " * (-len(text.encode("utf-8")) % 8), data)


def as_protocol(tensors) -> dict:
    """The tensors of ``write`` as the protocol sends them, arrays not packed: whole numbers have a field of their own."""
    return {
        name: {"dtype": dtype, "shape": shape, "index" if dtype == "I32" else "values": values}
        for name, (dtype, shape, values) in tensors.items()
    }


def numbers(tensor) -> list:
    """The values of a tensor of the protocol, not packed."""
    return list(tensor["index" if tensor["dtype"] == "I32" else "values"])


# Base model (SPEC 10)


def fingerprints(layers, weights):
    """Structure and contents of the adapted ones of ``weights``, by name: (shape, values)."""
    names = sorted({segment["name"] for segment in unfold(layers)}, key=lambda name: name.encode("utf-8"))
    structure = canonical([[name, weights[name][0]] for name in names]).encode("utf-8")
    contents = b"".join(stored(weights[name][1], "F32") for name in names)
    return tuple(hashlib.sha256(data).hexdigest()[:32] for data in (structure, contents))


def rest(weights) -> dict[str, str]:
    """The entry of each group of ``weights``, by the name of its first tensor (SPEC 10.5); ``weights`` by name: (shape, values)."""
    groups = {}
    for name in sorted(weights, key=lambda name: name.encode("utf-8")):
        groups.setdefault(re.sub("[0-9]+", "0", name), []).append(name)
    return {names[0]: _digits(group) + _contents([weights[name] for name in names]) for group, names in groups.items()}


def _digits(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def _contents(tensors):
    looked_at = []
    for shape, values in tensors:
        n = len(values)
        m = min(n, 64)
        looked_at.append((shape, [values[i * (n - 1) // (m - 1) if i else 0] for i in range(m)]))
    digits, exact = {}, {}
    for form in ("BF16", "F16"):
        pieces, exact[form] = b"", True
        for shape, values in looked_at:
            short = [rounded(value, form) for value in values]
            exact[form] &= all(value == one for value, one in zip(values, short) if abs(value) >= 2**-14)
            pieces += canonical(shape).encode() + stored([0.0 if abs(one) < 2**-14 else one for one in short], "F32")
        digits[form] = hashlib.sha256(pieces).hexdigest()[:4]
    if exact["BF16"]:
        digits["F16"] = "0000"
    elif exact["F16"]:
        digits["BF16"] = "0000"
    return digits["BF16"] + digits["F16"]


def rounded(value, dtype) -> float:
    """A float32 rounded to a shorter form, to infinity beyond its range."""
    try:
        return widened(stored([value], dtype), dtype)[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def differ(entries, record) -> list[str]:
    """The names of ``rest`` whose entries differ from those in the text ``record`` (SPEC 10.6)."""
    recorded = {record[at : at + 8]: record[at + 8 : at + 16] for at in range(0, len(record), 16)}
    found = []
    for name, entry in entries.items():
        other = recorded.get(entry[:8], "00000000")
        pairs = [(entry[8:12], other[:4]), (entry[12:], other[4:])]
        if any(one != two and "0000" not in (one, two) for one, two in pairs):
            found.append(name)
    return sorted(found)
