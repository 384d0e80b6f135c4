"""A folder of ONNX files that are one model's parts, as Optimum writes encoder-decoders and onnxruntime-genai its models, with an
adapter in each part that it changes."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from unilora_spec import Adapter, BaseMismatch, UniLoraError
from unilora_spec.places import own_file

from .. import external
from ..folders.base_files import OTHER_CONTENTS
from ..folders.folder import check_new, new_folder
from ..folders.merge import OTHER_WEIGHTS
from ..modes import BESIDE
from .from_file import export_onnx_file, read
from .matching import match, values


def export_onnx_folder(
    base,
    adapter: Adapter | Sequence[Adapter],
    output,
    mode: str = "merged",
    *,
    compare: bool | None = None,
    progress: Callable[[str], None] = lambda step: None,
    **options,
) -> dict:
    """Writes the ONNX files of the folder ``base`` with ``adapter`` to the new folder ``output``, and returns a report of it.

    Each file keeps its name, and those that hold none of the adapter's weights are copied, as is what lies beside them. A file is the
    part that its name begins with (``encoder_model.onnx``), or the whole model (``model.onnx``). What the modes "input" and "factored"
    write beside a graph is there once, as ``model.onnx_adapter`` and ``model.expander.onnx``: all parts take all of it, and leave unused
    what is another's. The ``options`` are those of ``export_onnx_file``.

    Raises ``BaseMismatch`` where a weight of the adapter's is in none of the files, and what ``export_onnx_file`` raises; then nothing
    is at ``output``.
    """
    base, output = Path(base), Path(output)
    adapters = [adapter] if isinstance(adapter, Adapter) else list(adapter)
    check_new(output)
    files = sorted(base.glob("*.onnx"))
    if not files:
        raise UniLoraError(f"{base} has no ONNX files; give a folder that has, or the base to `export onnx`")
    if base.resolve() in (output.resolve(), *output.resolve().parents):
        raise UniLoraError(f"{output} is the base, or lies in it; give another folder")
    found, data, parts, warnings = {}, set(), {}, []
    for file in files:
        progress(f"looking for the adapter's weights in {file.name}")
        graph = read(file)
        try:
            matches, _ = match(graph, adapters[0], part=_part(file))
        except BaseMismatch as error:
            raise error.within(file) from None
        data |= external.files(graph)
        parts[file] = len({each.name for each in matches})
        found = {each.name: each for each in reversed(matches)} | found
    wanted = (*adapters[0].layer_map.by_weight(), *adapters[0].saved)
    if missing := [name for name in wanted if name not in found]:
        raise BaseMismatch(
            f"{missing[0]} is in none of {', '.join(file.name for file in files)} by its name; export each by `export onnx --part`,"
            " and say by --map where it is",
            "10.3",
        )
    same = _same_contents(adapters[0], found)
    warnings += [OTHER_CONTENTS] if same is False else []
    found.clear()
    with new_folder(output) as target:
        reports = {}
        for file, weights in parts.items():
            if weights:
                step = f"{file.name}: {{}}".format
                report = export_onnx_file(
                    file, adapters, target / file.name, mode, compare=compare, part=_part(file),
                    progress=lambda each, step=step: progress(step(each)), **options,
                )  # fmt: skip
                warnings += [f"{file.name}: {each}" for each in report["warnings"] if each != OTHER_CONTENTS]
                reports[file.name] = {key: report[key] for key in ("weights", "elsewhere", "comparison")}
            else:
                _copy(file, target)
        _keep_one(target, [target / name for name in reports], mode)
        left_out = _copy_others(base, set(files) | data, target)
        written = [path for path in target.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in written)
    return {
        "output": str(output), "files": len(written), "bytes": size, "mode": mode, "parts": reports, "same_contents": same,
        "left_out": left_out, "warnings": warnings,
    }  # fmt: skip


def _keep_one(target: Path, graphs: list[Path], mode: str) -> None:
    """Of the files beside the graphs, which are the same for all, those of one under a name of the whole model."""
    for suffix in BESIDE.get(mode, ()):
        first, *others = (graph.with_suffix(suffix) for graph in graphs)
        for file in others:
            file.unlink()
        first.rename(target / f"model{suffix}")


def _part(file: Path) -> str | None:
    word = re.split(r"[_.-]", file.name)[0]
    return None if word == "model" else word


def _same_contents(adapter: Adapter, found) -> bool | None:
    """Whether the weights of all files together have the values on record; None where some are rounded, or none are on record."""
    weights = adapter.layer_map.by_weight()
    if any(found[name].value.dtype != ir.DataType.FLOAT for name in weights):
        return None
    return adapter.same_contents(lambda name: values(found[name], weights[name][0]))


def _copy(file: Path, target: Path) -> None:
    if own_file(file.parent, file.name) is None:
        raise UniLoraError(f"{file} is no file of the base's own folder; put it there, or leave it out")
    graph = ir.load(file)
    external.resolve(graph, file)
    for own in (file, *(path for path in external.files(graph))):
        shutil.copyfile(own, target / (file.name if own == file else own.name))


def _copy_others(base: Path, known: set[Path], target: Path) -> list[str]:
    """Copies what is no graph and no data of one. Returns the names of what is left out: folders, other weights, others' files, and
    files of a name that has been written."""
    left_out = []
    for path in sorted(base.iterdir()):
        own = own_file(base, path.name)
        if path in known or own in known or path.name.startswith("."):
            continue
        if own is None or path.suffix in OTHER_WEIGHTS or (target / path.name).exists():
            left_out.append(path.name)
        else:
            shutil.copyfile(own, target / path.name)
    return left_out
