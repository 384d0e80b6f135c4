"""The commands of ``backends.torch``."""

import json
import shutil
from pathlib import Path

from .job import BROKEN, MIXED, NEW, NOTHING, Job, call, digests, leftovers
from .sources import STEPS, sources_of_torch

EVERY = 3  # steps from a checkpoint to the next


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


class Train(Job):
    """``train`` from its beginning, over an old adapter; its newest whole checkpoint is that of a run that nobody killed."""

    options = ("--overwrite",)

    def __init__(self, work):
        from backends.torch.__main__ import app

        self.app, self.whole = app, {}
        torch = sources_of_torch(work)
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
        sources_of_torch(work)
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
