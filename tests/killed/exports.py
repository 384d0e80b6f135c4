"""The commands of ``export``."""

import json
import shutil

import export.folders.from_peft
import export.folders.gguf
import export.folders.lora
import export.folders.merge
import export.folders.peft
import export.graph.expander
import export.onnx
import export.onnx_base.folder
from export.__main__ import app as exporter
from export.check import check_with_file
from unilora_spec import UniLoraError, load_adapter

from .job import BROKEN, MIXED, NOTHING, Folder, Job, call


class Export(Job):
    """``export onnx`` to one file."""

    mode = "reconstruct"

    def arguments(self, version):
        vector = self.work / f"{version}.safetensors"
        base = self.work / "base.onnx"
        return (
            "onnx",
            "--adapter",
            vector,
            "--base",
            base,
            "--mode",
            self.mode,
            "-o",
            self.folder / "out.onnx",
            "--compare",
        )


class ExportWithData(Export):
    """``export onnx`` with its data beside it, as above 2 GB."""

    mode = "merged"

    def __init__(self, work):
        export.onnx.LARGEST_FILE = 2**10
        super().__init__(work)
        assert len(self.old) == len(self.new) == 2

    def otherwise(self, found):  # data without its graph is a leftover
        return BROKEN if "out.onnx" in found else NOTHING


class ExportFactored(Export):
    """``export onnx --mode factored``: a graph, its expander and its adapter, of which ``check`` refuses what is mixed."""

    mode = "factored"

    def otherwise(self, found):
        if "out.onnx" not in found:
            return NOTHING
        for version, wanted in (("old", self.old), ("new", self.new)):
            if wanted["out.onnx"] == found["out.onnx"]:
                try:
                    adapter = load_adapter(self.work / f"{version}.safetensors")
                    check_with_file(
                        self.folder / "out.onnx", [adapter], self.work / "base.onnx", None, {}, lambda step: None
                    )
                except UniLoraError:
                    return MIXED
        return BROKEN


class ExportInput(ExportFactored):
    """``export onnx --mode input``: a graph and its adapter, of which ``check`` refuses what is mixed."""

    mode = "input"


class Gguf(Job):
    """``export gguf``."""

    def arguments(self, version):
        return "gguf", "--adapter", self.work / f"{version}.safetensors", "-o", self.folder / "out.gguf"


class ImportPeft(Job):
    """``export import-peft``, without the base, as that would be made by transformers."""

    def __init__(self, work):
        for version in ("old", "new"):
            read = work / f"{version}, peft"
            assert call(exporter, ("peft", "--adapter", work / f"{version}.safetensors", "-o", read)) == 0
            config = json.loads((read / "adapter_config.json").read_text()) | {"base_model_name_or_path": None}
            (read / "adapter_config.json").write_text(json.dumps(config))
        super().__init__(work)

    def arguments(self, version):
        return "import-peft", "--adapter", self.work / f"{version}, peft", "-o", self.folder / "out.safetensors"


class Merge(Folder):
    """``export merge``."""

    command = "merge"


class Lora(Folder):
    """``export lora``."""

    command = "lora"


class Peft(Folder):
    """``export peft``."""

    command = "peft"


class OnnxFolder(Folder):
    """``export onnx-folder``."""

    command = "onnx-folder"

    def __init__(self, work):
        (work / "onnx").mkdir()
        shutil.copy(work / "base.onnx", work / "onnx/model.onnx")
        super().__init__(work)

    def arguments(self, version):
        return *super().arguments(version), "--base", self.work / "onnx"
