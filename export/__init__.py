"""From a Uni-LoRA adapter to what others run: ``export_onnx`` here, ``python -m export onnx`` on the command line."""

__all__ = ["export_onnx"]


def __getattr__(name):  # torch and onnx are imported when they are needed: --help answers at once
    if name == "export_onnx":
        from .from_torch import export_onnx

        return export_onnx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
