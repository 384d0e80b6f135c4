"""From a Uni-LoRA adapter to what others run: ``export_onnx`` and ``export_onnx_file`` here, ``python -m export`` for all."""

import importlib
from typing import TYPE_CHECKING, Any

import unilora_spec  # noqa: F401  first, as its first import lets Ctrl-C end in a sentence

if TYPE_CHECKING:
    from .onnx_base.from_file import export_onnx_file
    from .torch_base.from_torch import export_onnx

_WHERE = {"export_onnx": ".torch_base.from_torch", "export_onnx_file": ".onnx_base.from_file"}
__all__ = ["export_onnx", "export_onnx_file"]


def __getattr__(name: str) -> Any:  # torch and onnx are imported when they are needed: --help answers at once
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
