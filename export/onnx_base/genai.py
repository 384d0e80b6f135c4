"""A folder of onnxruntime-genai's, as its model builder writes it, with an adapter in its graph: genai's own loop runs it.

The graph keeps its name and inputs, so that genai_config.json stays what it is; what is fed beside them has a default, or comes with an
.onnx_adapter (``og.Adapters(model).load(file, name)``, ``generator.set_active_adapter(adapters, name)``).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from unilora_spec import Adapter, UniLoraError
from unilora_spec.documents import read_json
from unilora_spec.places import own_file

from ..folders.folder import check_new, new_folder
from .from_file import export_onnx_file

CONFIG = "genai_config.json"
SETTINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""The suffixes of what genai reads beside a graph: its configuration, the tokenizer, the template of a chat."""


def export_genai(folder, adapter: Adapter | Sequence[Adapter], output, mode: str = "factored", **options) -> dict:
    """Writes the model in the folder ``folder`` of onnxruntime-genai's with ``adapter`` to the new folder ``output``, and returns the
    report of ``export_onnx_file``, which takes ``options``; the files beside the graph are in the new folder too.

    Raises ``UniLoraError`` where genai cannot feed the mode, where the folder holds more than one decoder, and as
    ``export_onnx_file`` does; then nothing is at ``output``.
    """
    folder, output = Path(folder), Path(output)
    if mode == "bank":
        raise UniLoraError(
            "onnxruntime-genai feeds no number for each row, which the mode bank needs; give --mode factored or input"
        )
    check_new(output)
    name = graph_name(folder)
    with new_folder(output) as target:
        report = export_onnx_file(folder / name, adapter, target / name, mode, **options)
        for file in sorted(folder.iterdir()):
            if file.suffix in SETTINGS and (own := own_file(folder, file.name)) is not None:
                shutil.copyfile(own, target / file.name)
    files = {str(output / Path(file).name): size for file, size in report["files"].items()}
    return report | {"file": str(output / name), "files": files, "genai": str(output)}


def graph_name(folder: Path) -> str:
    """The file of the decoder in a folder of genai's. Raises ``UniLoraError`` where there is none, or others beside it."""
    config = folder / CONFIG
    model = read_json(config).get("model")
    parts = {key: part for key, part in model.items() if isinstance(part, dict)} if isinstance(model, dict) else {}
    graphs = [key for key, part in parts.items() if "filename" in part or "pipeline" in part]
    name = parts.get("decoder", {}).get("filename")
    if graphs != ["decoder"] or not isinstance(name, str) or Path(name).name != name:
        raise UniLoraError(
            f"{config} names {', '.join(graphs) or 'no graph'}, and only a model of one decoder in the folder itself can be adapted; give --base"
            " the graph that the adapter belongs to"
        )
    return name
