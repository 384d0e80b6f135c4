"""Runs a training, from settings to a file: base, data, ``attach``, transformers' Trainer, ``save_adapter``."""

import contextlib
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load
from transformers import EarlyStoppingCallback, TrainerState

from unilora_spec import UniLoraError, WorkFailed
from unilora_spec.command import say
from unilora_spec.placing import placing
from unilora_spec.serialization import encode

from ...runs.ending import Stopped
from ...runs.outputs import check_place
from ...runs.processes import is_first
from ...runs.report import announcement
from ...settings import DURING, TrainSettings, flag
from ..adapter.attach import attach_adapter
from ..ranks.during import Beam, Dora, without_pruned
from ..using.card import card_beside, card_of, check_card, is_free
from .adapted import attach_planned, parameter_groups, planned
from .base import quiet
from .chain import Links
from .checkpoints import STATE, Checkpoints, Interruption
from .progress import TrainerProgress
from .report import held_out_metrics, ranks_left, report_of
from .state_files import StateFiles
from .sweep import swept
from .trainer import WEIGHTS, make_trainer

__all__ = ["Stopped", "TrainSettings", "train"]


def train(settings: TrainSettings, progress: bool = False) -> dict:
    """Trains an adapter as ``settings`` say, writes it to ``settings.output`` and returns a report.

    The same settings, data, libraries and machine give the same bytes, also through an interruption and ``resume``.
    Raises ``UniLoraError`` where settings, base or data are wrong, ``WorkFailed`` where the disk refuses or the loss is
    no number any more, and ``Stopped`` (a ``WorkFailed``) after Ctrl-C or SIGTERM, when a checkpoint has been written.

    Under torchrun or accelerate launch every process makes this call, and all return the report; the first one writes.
    """
    started = time.monotonic()
    _check_output(settings)
    checkpoints = Checkpoints(settings) if settings.output else None
    tried = None
    if settings.resume and checkpoints.last():
        settings = replace(settings, sweep=None)  # the checkpoint has the rate that was chosen
    if settings.sweep:
        say_if_shown = say if progress and is_first() else lambda line: None
        settings, tried = swept(settings, lambda trial: train(trial, progress), say_if_shown)
    with quiet(), _deterministic(), contextlib.ExitStack() as stack:
        model, new, rows, task, settings, taken, layer_map, ranks, size, dtype = planned(
            settings, progress and is_first()
        )
        shown = stack.enter_context(TrainerProgress(task.main)) if progress and is_first() else None
        attach_planned(model, settings, layer_map, new, **({"progress": shown.on_weight} if shown else {}))
        if shown:
            by_default = f"by default: {', '.join(taken)} (docs/language-models.md says why)"
            for line in (announcement(settings.base, rows, task), *rows.said, *([by_default] if taken else [])):
                shown.say(line)
        if checkpoints and is_first():
            stack.callback(checkpoints.clear_unless_any)
        folder = checkpoints.folder if checkpoints else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trainer = make_trainer(model, parameter_groups(model, settings), settings, rows, task, folder)
        if checkpoints:
            trainer.write_to(checkpoints, StateFiles(trainer, model, settings, len(rows.train)))
        if model.unilora.projection.links > 1:
            trainer.args.num_train_epochs *= model.unilora.projection.links  # --epochs is each link's
            trainer.add_callback(Links(model.unilora, shown.say if shown else lambda line: None))
        if settings.ranks in DURING:
            mover = Dora(model.unilora, ranks["budget"]) if settings.ranks == "dora" else Beam(model.unilora)
            trainer.add_callback(mover)
        if shown:
            trainer.add_callback(shown)
        if shown and rows.held_out:
            shown.at("held-out batch", 0, len(trainer.get_eval_dataloader()))
        before = trainer.evaluate() if rows.held_out else {}
        if settings.metric and settings.metric not in held_out_metrics(before):
            there = ", ".join(held_out_metrics(before)) or "none, as no rows are held out"
            raise UniLoraError(f"--metric is {settings.metric!r:.60}; of {settings.task} there are {there}")
        with Interruption(checkpoints, shown.say if shown else lambda line: None) as interruption:
            trainer.add_callback(interruption)
            after = _run(trainer, model, settings, checkpoints)
        if settings.ranks in DURING:
            attach_adapter(model, without_pruned(model.unilora.adapter()))
            ranks["targets"] = ranks_left(ranks["targets"], layer_map, model.unilora.layer_map)
    report = report_of(model, trainer, rows, task, settings, size, dtype, before, after)
    if ranks:
        report["ranks"] = ranks
    if tried:
        report["sweep"] = tried
    if checkpoints:
        trainer.accelerator.wait_for_everyone()  # nobody reads a checkpoint any more
        if is_first():
            report["card"] = _save(model, settings, report)
            checkpoints.clear()
        trainer.accelerator.wait_for_everyone()
        report |= {"output": str(settings.output), "bytes": settings.output.stat().st_size}
    return report | {"seconds": round(time.monotonic() - started, 1)}


def _check_output(settings):
    if settings.output:
        check_place(
            settings.output, "--output", {flag(name): getattr(settings, name) for name in ("base", "data", "eval")}
        )
        if settings.state:
            read = {flag(name): getattr(settings, name) for name in ("base", "data", "eval", "output")}
            check_place(settings.state, "--state", read)
        if settings.card:
            check_card(card_beside(settings.output))


@contextlib.contextmanager
def _deterministic():
    if not torch.cuda.is_available():
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is not deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _run(trainer, model, settings, checkpoints) -> dict:
    """Trains to the end, from the start or from the last checkpoint; returns the metrics of the resulting model."""
    last = None
    if checkpoints:
        if is_first():
            checkpoints.start()
        trainer.accelerator.wait_for_everyone()
        last = checkpoints.last() or trainer.state_files.read()
    if settings.patience:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    if last and settings.patience and checkpoints.patience_is_over():
        trainer.state = TrainerState.load_from_json(str(last / STATE))
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    state = trainer.state
    step = state.global_step
    if settings.patience and state.best_global_step:
        step = state.best_global_step
        best = Path(trainer.args.output_dir) / f"checkpoint-{step}" / WEIGHTS
        model.load_state_dict(load(best.read_bytes()), strict=False)
    return next((entry for entry in reversed(state.log_history) if entry["step"] == step and "eval_loss" in entry), {})


def _save(model, settings, report):
    """Writes the adapter, and its card beside it. Returns the card's name, or None where no card is wanted or where
    another file has appeared in its place meanwhile."""
    adapter, output = model.unilora.adapter(), settings.output
    content, card = encode(adapter), card_beside(output)
    with_card = settings.card and is_free(card)
    try:
        with placing(output) as folder:
            (folder / output.name).write_bytes(content)
            if with_card:
                (folder / card.name).write_bytes(card_of(settings, report, adapter, content))
    except WorkFailed as error:
        raise WorkFailed(f"{error.message}; the checkpoints are kept, for --resume") from error
    return str(card) if with_card else None
