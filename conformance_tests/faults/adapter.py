"""Faults in what an adapter is, and merging (SPEC 7, 8, 10)."""

from . import of

FAULTS = [
    *of(
        "adapter.py",
        ("a parameter adapted and saved", "8.8", "for segment in self.layer_map.segments if segment.name in self.saved}", "for segment in ()}"),
        ("structure in the order of the file", "10.1", "for name, shape in sorted(shapes.items())", "for name, shape in shapes.items()"),
        ("contents in the order of the file", "10.2", "for name in sorted(names):", "for name in names:"),
        ("contents in big-endian", "10.2", 'dtype="<f4"', 'dtype=">f4"'),
        ("ΔW in place of W", "7.10", "widen(part) + band.stored", "0 * widen(part) + band.stored"),
        ("ΔW subtracted", "7.10", "widen(part) + band.stored", "widen(part) - band.stored"),
        ("saved parameters added", "7.10", "weights[name][...] = value", "weights[name][...] += value"),
        ("another structure accepted", "10.3", "if self.base and structure_fingerprint(adapted) != self.base.structure:", "if False:"),
        ("saved parameters of another shape", "10.3", "if shapes.get(name) != value.shape:", "if name not in shapes or np.prod(shapes[name]) != value.size:"),
        ("a zero's sign lost in the contents", "10.2", 'np.ascontiguousarray(read(name), dtype="<f4")', 'np.ascontiguousarray(read(name) + 0.0, dtype="<f4")'),
        ("structure by UTF-16 code units", "10.1", "for name, shape in sorted(shapes.items())", 'for name, shape in sorted(shapes.items(), key=lambda item: item[0].encode("utf-16-be"))'),
        ("a record of 16 digits", "10.3", "structure_fingerprint(adapted) != self.base.structure:", "structure_fingerprint(adapted)[:16] != self.base.structure[:16]:"),
        ("contents of 16 digits", "10.3", "read) == self.base.contents if", "read)[:16] == self.base.contents[:16] if"),
    ),
]  # fmt: skip
