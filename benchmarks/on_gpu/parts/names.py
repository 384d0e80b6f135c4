"""The parts in their order, the most telling first, and how long each may take."""

from ..running import Part

SECONDS = 480  # of all parts together


def _part(name: str, title: str, seconds: float) -> Part:
    return Part(name, title, seconds, f"{__package__}.{name}")


MACHINE = _part("machine", "The machine", 30)
PARTS = (
    _part("bits", "The kernels' bits", 60),
    _part("determinism", "The same bits in every run", 30),
    _part("copies", "Expand beside a copy", 25),
    _part("steps", "A training step beside PEFT's", 60),
    _part("graphs", "The step as a CUDA graph", 50),
    _part("conformance", "The specification through the kernels", 40),
    _part("blocks", "Block sizes", 50),
    _part("onnx_modes", "ONNX modes on CUDA", 45),
    _part("nodes", "`export nodes` and ONNX Runtime", 10),
    _part("compiled", "The step under torch.compile", 80),
)
"""Together with the machine they take no longer than ``SECONDS``."""
