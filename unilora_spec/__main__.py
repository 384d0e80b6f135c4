"""``python -m unilora_spec inspect FILE`` and ``python -m unilora_spec verify FILE [--base DIR]``."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from .base_model import compare_with_base
from .command import printable, program_name, run
from .gather import Gather
from .rest import warnings_of
from .serialization import SAVED, describe, is_canonical, load_adapter


def inspect(path: Path) -> dict[str, Any]:
    """The report on a file: its description, its tensors and their sizes and, where P is an index, the bytes that P takes in memory
    when it is computed and when it is cached."""
    adapter = load_adapter(path)
    theta, p = adapter.theta.astype(np.float64), adapter.projection
    own = {
        name: {"dtype": p.stored[name], "shape": list(value.shape), "bytes": value.nbytes}
        for name, value in p.tensors.items()
    }
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        **describe(adapter),
        "segments": len(adapter.layer_map),
        "theta": {
            "dtype": adapter.dtypes.get("theta", "F32"),
            "mean": float(theta.mean()),
            "rms": float(np.sqrt((theta**2).mean())),
            "largest": float(abs(theta).max()),
        },
        **({"P": {"computed": 0, "cached": 4 * p.D}} if isinstance(p, Gather) else {}),
        **({"tensors": own} if own else {}),
        "saved": {
            name: {"dtype": adapter.dtypes.get(SAVED + name, "F32"), "shape": list(value.shape)}
            for name, value in adapter.saved.items()
        },
    }


def show_inspect(report: dict[str, Any]) -> list[str]:
    """The report as a person reads it, line by line."""
    p = report["projection"]
    lines = [f"{report['file']}: a Uni-LoRA adapter, {report['bytes']:,} bytes"]
    lines.append(f"  projection  {p['kind']}, seed {p['seed']}: d = {p['d']:,} trained numbers rebuild D = {p['D']:,}")
    if held := report.get("P"):
        lines.append(
            f"  P           {held['computed']} bytes where it is computed, {held['cached']:,} where its index is kept"
        )
    t = report["theta"]
    lines.append(f"  theta       {t['dtype']}, rms {t['rms']:.4g}, mean {t['mean']:.4g}, largest {t['largest']:.4g}")
    for name, tensor in report.get("tensors", {}).items():
        size = f"{tensor['dtype']} {tensor['shape']}, {tensor['bytes']:,} bytes"
        lines.append(f"  {name:11} {size}, stored in the file, not computed from the seed")
    lines.append(
        f"  layers      {report['segments']} segments, alpha {report['alpha']:g} ({report.get('scaling', 'lora')})"
    )
    for entry in report["layers"]:
        for segment in entry.get("segments", [entry]):
            first, end = entry.get("layers", (None, None))
            name = segment["name"] if first is None else f"{entry['prefix']}{{{first}…{end - 1}}}{segment['name']}"
            place = [f"row {segment['row']} on"] if "row" in segment else []
            if "index" in segment:
                i = segment["index"]
                place.append(f"index {i[0]}…{i[1] - 1}" if isinstance(i, list) else f"index {i}")
            place += ["transposed"] if segment.get("transposed") else []
            where = f" ({', '.join(place)})" if place else ""
            rank = f"rank {segment['rank']}" if segment["rank"] else "ΔW itself"
            lines.append(f"    {name}{where}: {segment['out']} × {segment['in']}, {rank}")
    if base := report.get("base"):
        lines.append(f"  base        {base['name']}" + (f" ({base['architecture']})" if "architecture" in base else ""))
        if "labels" in base:
            lines.append(f"  labels      {', '.join(base['labels'])}")
        if "problem_type" in base:
            lines.append(f"  outputs     {base['problem_type']}")
        lines.append(f"  fingerprint structure {base['structure']}, contents {base['contents']}")
    for name, tensor in report["saved"].items():
        lines.append(f"  saved       {name}, {tensor['dtype']} {tensor['shape']}")
    return lines


def verify(path: Path, base: Path | None) -> dict[str, Any]:
    """The report on a file: whether its bytes are canonical (SPEC 8.10) and, with ``base``, whether that folder's weights have the
    values that the adapter was trained on. Raises ``UniLoraError`` where the file is unsound or does not fit the base."""
    adapter = load_adapter(path)
    report = {"file": str(path), "sound": True, "canonical": is_canonical(adapter, path.read_bytes())}
    if base:
        report["base"] = {"folder": str(base), **compare_with_base(adapter, base)}
    return report


def show_verify(report: dict[str, Any]) -> list[str]:
    """The report as a person reads it, line by line."""
    canonical = "canonical bytes" if report["canonical"] else "not the canonical bytes of SPEC 8.7"
    lines = [f"{report['file']}: sound", f"  {canonical}"]
    if base := report.get("base"):
        lines.append(f"  fits {base['folder']}: all {base['weights']} adapted weights are there, of the right shapes")
        same = {
            True: "and their values are those it was trained on",
            False: "but their values are not those it was trained on: another checkpoint of the same architecture",
            None: "and the file has no record of the values it was trained on",
        }
        lines.append(f"  {same[base['same_contents']]}")
        lines += [f"  {line}" for line in warnings_of(base["other_rest"])]
    return lines


def parser() -> argparse.ArgumentParser:
    """The options of both commands."""
    both = argparse.ArgumentParser(
        prog=program_name("unilora_spec"),
        description="Look into a Uni-LoRA adapter, or check it.",
        epilog=f"Example: {program_name('unilora_spec')} verify vec.safetensors --base ./my-model",
    )
    commands = both.add_subparsers(dest="command", required=True)
    for name, text in (
        ("inspect", "show what an adapter holds"),
        (
            "verify",
            "check that an adapter is sound, canonical and fits a base; exit status 1 where the base is another",
        ),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("file", type=Path)
        command.add_argument("--json", action="store_true", help="print the report as JSON")
        if name == "verify":
            command.add_argument("--base", type=Path, help="folder of the base model, with its .safetensors files")
    return both


def main() -> int:
    call = parser().parse_args()
    report = inspect(call.file) if call.command == "inspect" else verify(call.file, call.base)
    if call.json:
        print(json.dumps(report, indent=2))
    else:
        lines = (show_inspect if call.command == "inspect" else show_verify)(report)
        print("\n".join(map(printable, lines)))
    base = report.get("base", {})
    return 1 if base.get("same_contents") is False or base.get("other_rest") else 0


if __name__ == "__main__":
    run(main)
