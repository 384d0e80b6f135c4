"""Commands killed at any moment: what is left is the old output, the new one, or nothing, whole; and the next call clears the rest.

    python tests/kills.py --kills 200        or: make kills
    python tests/kills.py --only resume --seed 1

Each call is a copy of this process, which has imported everything: no time goes into that, and the kills fall into the work, spread
evenly over it; then one after each rename. Linux and macOS: it forks.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # a copy has the thread that forked, and no other

import numpy as np
import onnx
from onnx import TensorProto, helper
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from safetensors.numpy import save_file
from typer.main import get_command

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
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, UniLoraError, load_adapter, save_adapter
from unilora_spec.adapter import contents_fingerprint, structure_fingerprint
from unilora_spec.command import run

SIDE, LAYERS = 128, 4
STEPS, EVERY = 12, 3
OLD, NEW, NOTHING, MIXED, BROKEN = "old", "new", "nothing", "mixed, and refused", "broken"
FINISHED = "finished before"


# Calls


def call(app, arguments, moment=None, hook=lambda: None) -> int:
    """The exit status of a command in a copy of this process, which is killed after ``moment`` seconds, or None for never."""
    child = os.fork()
    if not child:
        status = 70
        try:
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
            sys.argv = ["command", *map(str, arguments)]
            hook()
            run(lambda: get_command(app).main(standalone_mode=False))
        except SystemExit as end:
            status = end.code or 0
        finally:
            os._exit(status)
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder, by its name in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(found: dict) -> set[str]:
    return {name.split("/")[0] for name in found if ".partial" in name}


# What is killed


class Job:
    """A command that writes into ``folder``; ``old`` and ``new`` are what it has there from other settings, and from its own."""

    app = exporter

    def __init__(self, work: Path):
        self.work, self.folder = work, work / type(self).__name__
        self.folder.mkdir()
        self.old = self.made("old")
        self.kept = shutil.copytree(self.folder, work / f"{type(self).__name__}, old")
        self.new = self.made("new")
        assert self.old != self.new
        begin = time.monotonic()
        self.made("new")
        self.seconds = time.monotonic() - begin

    def made(self, version) -> dict:
        """What a call that nobody kills leaves in the empty folder."""
        self.empty()
        assert call(self.app, self.arguments(version)) == 0
        return digests(self.folder)

    def empty(self):
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def kill(self, moment, hook=lambda: None) -> str:
        """What a killed call has left at the output."""
        status = call(self.app, self.arguments("new"), moment, hook)
        if status == 0:
            return FINISHED
        assert status == -signal.SIGKILL, status
        return self.state()

    def state(self) -> str:
        found = {name: digest for name, digest in digests(self.folder).items() if ".partial" not in name}
        for name, wanted in ((OLD, self.old), (NEW, self.new)):
            if wanted.items() <= found.items():
                return name
        return self.otherwise(found)

    def otherwise(self, found) -> str:
        return BROKEN if found else NOTHING

    def litter(self) -> int:
        """How many things are there that no output has."""
        found = digests(self.folder)
        return len(leftovers(found)) + len(
            {name for name in found if ".partial" not in name} - set(self.old) - set(self.new)
        )

    def again(self) -> bool:
        """Whether a call that nobody kills ends well, and leaves its output and nothing beside it."""
        return call(self.app, self.arguments("new")) == 0 and digests(self.folder) == self.new

    def back(self, number):
        """Before kill ``number``: the old output is there, or none; what kills have left stays."""
        for name in {*self.old, *self.new}:
            (self.folder / name).unlink(missing_ok=True)
        if number % 2 == 0:
            shutil.copytree(self.kept, self.folder, dirs_exist_ok=True)


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


class FromCheckpoint(Job):
    """``backends.torch adapter``."""

    def __init__(self, work):
        import backends.torch.adapter.files.checkpoint  # noqa: F401
        from backends.torch.__main__ import app

        self.app = app
        for version in ("old", "new"):
            (work / f"{version}, checkpoint").mkdir()
            shutil.copy(work / f"{version}.safetensors", work / f"{version}, checkpoint/unilora.safetensors")
        super().__init__(work)

    def arguments(self, version):
        return "adapter", "--checkpoint", self.work / f"{version}, checkpoint", "-o", self.folder / "out.safetensors"


class Folder(Job):
    """A command that writes a folder which is not there before."""

    def arguments(self, version):
        return self.command, "--adapter", self.work / f"{version}.safetensors", "-o", self.folder / "out"

    def back(self, number):
        shutil.rmtree(self.folder / "out", ignore_errors=True)

    def again(self):
        self.back(0)
        return super().again()


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


class Train(Job):
    """``train`` from its beginning, over an old adapter; its newest whole checkpoint is that of a run that nobody killed."""

    options = ("--overwrite",)

    def __init__(self, work):
        from backends.torch.__main__ import app

        self.app, self.whole = app, {}
        torch = _torch_with(work)
        self.load = lambda path: torch.load(path, weights_only=True)
        with_all = self._keeping
        super().__init__(work)
        self.empty()
        assert call(self.app, self.arguments("new"), hook=with_all) == 0
        for step in range(EVERY, STEPS + 1, EVERY):
            self.whole[step] = self._contents(self.folder / f"vec.checkpoints/checkpoint-{step}")
        self.empty()

    @staticmethod
    def _keeping():
        import backends.runs.checkpoints

        backends.runs.checkpoints.Checkpoints.clear = lambda self: None
        backends.runs.checkpoints.KEPT = 100

    def arguments(self, version):
        settings = {
            "base": self.work / "bert", "data": self.work / "reviews.csv", "text": "text", "label": "label", "rank": 2, "dim": 50,
            "batch-size": 4, "max-length": 8, "epochs": 1, "eval-steps": EVERY, "seed": int(version == "old"),
            "output": self.folder / "vec.safetensors",
        }  # fmt: skip
        return "train", *(part for name, value in settings.items() for part in (f"--{name}", value)), *self.options

    def state(self):
        found = super().state()
        return found if self._checkpoints_are_right() else BROKEN

    def otherwise(self, found):  # a card says by a digest which file it is of
        if "vec.safetensors" not in found:
            return NOTHING
        whole = all(found[name] in (self.old[name], self.new[name]) for name in self.new if name in found)
        return MIXED if whole else BROKEN

    def _checkpoints_are_right(self) -> bool:
        folder = self.folder / "vec.checkpoints"
        for path in folder.glob("checkpoint-*"):
            if _is_whole(path) and self._contents(path) != self.whole.get(int(path.name[11:])):
                return False
        return True

    def _contents(self, checkpoint) -> tuple:
        """What θ and the optimizer of a checkpoint are; of the rest, times are in it."""
        optimizer = self.load(checkpoint / "optimizer.pt")["state"]
        numbers = [value.numpy().tobytes() for state in optimizer.values() for _, value in sorted(state.items())]
        return (checkpoint / "model.safetensors").read_bytes(), numbers, (checkpoint / "scheduler.pt").read_bytes()

    def litter(self):
        found = digests(self.folder)
        cut = [path for path in self.folder.glob("vec.checkpoints/checkpoint-*") if not _is_whole(path)]
        return len(leftovers(found)) + len(cut)


class Resume(Train):
    """``train --resume``, killed again and again: where nobody kills it, it ends in the bytes of a run that nobody killed."""

    options = ("--resume",)

    def back(self, number):
        """A run goes on from what the one before has left, until one is through."""
        if self.state() == NEW and not (self.folder / "vec.checkpoints").exists():
            self.empty()


class Predict(Job):
    """``predict``, over an older table."""

    def __init__(self, work):
        from backends.torch.__main__ import app

        self.app, self.work = app, work
        _torch_with(work)
        vector = {
            "base": work / "bert",
            "data": work / "reviews.csv",
            "dim": 50,
            "output": work / "trained.safetensors",
        }
        assert call(app, ["train", *(part for name, value in vector.items() for part in (f"--{name}", value))]) == 0
        super().__init__(work)

    def arguments(self, version):
        call = (
            "predict",
            "--adapter",
            self.work / "trained.safetensors",
            "--data",
            self.work / "reviews.csv",
            "--output",
        )
        return *call, self.folder / "out.csv", *(["--probabilities"] if version == "new" else [])


def _is_whole(checkpoint: Path) -> bool:
    try:
        record = json.loads((checkpoint / "whole.json").read_bytes())["sha256"]
        return {name: d for name, d in digests(checkpoint).items() if name != "whole.json"} == record and len(
            record
        ) > 4
    except (OSError, ValueError):
        return False


JOBS = {
    "train": Train, "resume": Resume, "predict": Predict, "export onnx, one file": Export, "export onnx, data beside": ExportWithData,
    "export onnx, factored": ExportFactored, "export onnx, input": ExportInput, "onnx-folder": OnnxFolder, "merge": Merge,
    "lora": Lora, "gguf": Gguf, "peft": Peft, "import-peft": ImportPeft, "adapter": FromCheckpoint,
}  # fmt: skip


# What is read


def sources(work: Path) -> None:
    """A base as a checkpoint and as an ONNX file, two adapters of it, a small BERT and sentences for it."""
    random_ = np.random.default_rng(0)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)]
    weights = {name: random_.normal(size=(SIDE, SIDE)).astype(np.float32) / SIDE**0.5 for name in names}
    (work / "base").mkdir()
    save_file(weights, work / "base/model.safetensors")
    (work / "base/config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": LAYERS}))
    values = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    nodes = [helper.make_node("Gemm", [values[i], names[i]], [values[i + 1]], transB=1) for i in range(LAYERS)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIDE]) for name in "xy")
    graph = helper.make_graph(
        nodes, "g", [x], [y], [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), work / "base.onnx")
    for seed, version in enumerate(("old", "new")):
        layer_map = LayerMap([Segment(name, SIDE, SIDE, 4) for name in weights], alpha=4 + seed)
        structure = structure_fingerprint({name: value.shape for name, value in weights.items()})
        base = Base(str(work / "base"), structure, contents_fingerprint(weights, weights.get))
        theta = random_.normal(size=64).astype(np.float32)
        adapter = Adapter(Projection(D=layer_map.D, d=64, seed=seed), layer_map, theta, base)
        save_adapter(adapter, work / f"{version}.safetensors")


def _torch_with(work):
    """What a training imports, and what it reads."""
    os.environ["HF_DATASETS_CACHE"] = str(work / "cache")
    import torch
    import transformers

    import backends.torch.training.train
    import backends.torch.using.prediction  # noqa: F401

    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = ["good", "bad", "film", *map(str, range(10)), *(f"##{i}" for i in range(10))]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(work / "bert")
    tokenizer = transformers.BertTokenizer(vocab={name: number for number, name in enumerate(vocabulary)})
    tokenizer.save_pretrained(work / "bert")
    rows = [f"{('good', 'bad')[i % 2]} film {i},{i % 2}" for i in range(4 * STEPS + 5)]
    (work / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return torch


# The program


def killed(job: Job, kills: int, seed: int, advance=lambda: None) -> Counter:
    """How often what was left: kills spread evenly over a run, a call that nobody kills after every tenth."""
    found, moments, tries = Counter(), random.Random(seed), 0
    number, longest = 0, job.seconds
    while number < kills and tries < 4 * kills + 20:
        tries += 1
        job.back(number)
        state = job.kill(longest * (number + moments.random()) / kills)
        if state == FINISHED:
            longest *= 0.95  # the machine has become faster
            continue
        number += 1
        found[state] += 1
        found["leftovers"] += job.litter() > 0
        if number % 10 == 0 or number == kills:  # at times several kills come before a call that nobody kills
            found["again"] += 1
            found["again and clean"] += job.again()
        advance()
    found["kills"] = number + at_renames(job, found)
    return found


def at_renames(job: Job, found: Counter) -> int:
    """Kills right after the first rename of a run, the second, and so on: moments too short to be met by chance."""
    for number in range(1, 100):
        job.back(0)
        state = job.kill(None, lambda: _kill_after(number))  # noqa: B023  called before the next
        if state == FINISHED:
            break
        found[state] += 1
        found["leftovers"] += job.litter() > 0
        found["again"] += 1
        found["again and clean"] += job.again()
    return number - 1


def _kill_after(renames: int) -> None:
    rename, left = os.replace, renames

    def renaming(*places):
        nonlocal left
        rename(*places)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = renaming


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of each command by chance; by default 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=JOBS, action="append", help="this command alone; may be given again")
    parser.add_argument("--json", action="store_true", help="for machines")
    call_ = parser.parse_args()
    console, rows = Console(stderr=True), {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sources(work)
        bars = stack.enter_context(Progress(*columns, console=console))
        for name in call_.only or JOBS:
            task = bars.add_task(name, total=call_.kills)
            largest = export.onnx.LARGEST_FILE
            job = JOBS[name](work)
            rows[name] = killed(job, call_.kills, call_.seed, lambda task=task: bars.advance(task))
            export.onnx.LARGEST_FILE = largest
            if not console.is_terminal:
                console.print(f"{name}: {dict(rows[name])}", highlight=False, soft_wrap=True)
    if call_.json:
        print(json.dumps(rows))
    else:
        show(rows)
    return int(any(row[BROKEN] or row["again"] != row["again and clean"] for row in rows.values()))


def show(rows: dict) -> None:
    table = Table("command", "kills", OLD, NEW, NOTHING, MIXED, BROKEN, "left something", "cleared by the next call")
    for name, row in rows.items():
        counts = [row[state] for state in ("kills", OLD, NEW, NOTHING, MIXED, BROKEN, "leftovers")]
        table.add_row(name, *map(str, counts), f"{row['again and clean']} of {row['again']}")
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
