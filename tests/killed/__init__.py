"""What is killed: each command that writes, as a class that says how it is called and what it may leave."""

from .exports import (
    Export,
    ExportFactored,
    ExportInput,
    ExportWithData,
    Gguf,
    ImportPeft,
    Lora,
    Merge,
    OnnxFolder,
    Peft,
)
from .trainings import FromCheckpoint, Predict, Resume, Train

JOBS = {
    "train": Train, "resume": Resume, "predict": Predict, "export onnx, one file": Export, "export onnx, data beside": ExportWithData,
    "export onnx, factored": ExportFactored, "export onnx, input": ExportInput, "onnx-folder": OnnxFolder, "merge": Merge,
    "lora": Lora, "gguf": Gguf, "peft": Peft, "import-peft": ImportPeft, "adapter": FromCheckpoint,
}  # fmt: skip
