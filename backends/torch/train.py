"""One training run, from settings to a file: base, data, ``attach``, transformers' Trainer, ``save_adapter``."""

import contextlib
import dataclasses
import inspect
import math
import os
import shutil
import tempfile
import time
from pathlib import Path

import datasets
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from unilora_spec import UniLoraError, WorkFailed

from .attach import attach
from .checkpoints import STATE, Checkpoints, Interruption, Stopped
from .data import Batches, Data, load
from .metrics import METRICS
from .progress import Progress
from .settings import TrainSettings

__all__ = ["Stopped", "TrainSettings", "train"]
WEIGHTS = "model.safetensors"  # the name that a Trainer looks for


def train(settings: TrainSettings, progress: bool = False) -> dict:
    """Trains an adapter as ``settings`` say, writes it to ``settings.output`` and returns a report.

    The same settings, data, libraries and machine give the same bytes, also through an interruption and ``resume``.
    Raises ``UniLoraError`` where settings, base or data are wrong, ``WorkFailed`` where the disk refuses or the loss is
    no number any more, and ``Stopped`` (a ``WorkFailed``) after Ctrl-C or SIGTERM, when a checkpoint has been written.
    """
    started = time.monotonic()
    _check_output(settings.output)
    checkpoints = Checkpoints(settings) if settings.output else None
    with _quiet(), _deterministic(), contextlib.ExitStack() as stack:
        config = _from_base(AutoConfig, settings.base)
        rows = load(settings, [name for _, name in sorted((config.id2label or {}).items())])
        tokenizer = _from_base(AutoTokenizer, settings.base)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model, new = _base_model(settings, config, rows, tokenizer)
        size = sum(parameter.numel() for parameter in model.parameters())
        _attached(model, settings, new)
        shown = stack.enter_context(Progress(METRICS[settings.task].main)) if progress else None
        if shown:
            shown.say(_announcement(settings, rows))
        if checkpoints:
            stack.callback(checkpoints.clear_unless_any)
        folder = checkpoints.folder if checkpoints else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trainer = _trainer(model, settings, rows, tokenizer, folder)
        if shown:
            trainer.add_callback(shown)
        before = trainer.evaluate() if rows.held_out else {}
        with Interruption(checkpoints, shown.say if shown else lambda line: None) as interruption:
            trainer.add_callback(interruption)
            after = _run(trainer, model, settings, checkpoints)
    report = {
        "rows": {
            "train": len(rows.train),
            "held_out": len(rows.held_out) if rows.held_out else 0,
            "dropped": rows.dropped,
        },
        "parameters": _counted(model, size),
        "steps": trainer.state.global_step,
        "before": _held_out(before),
        "after": _held_out(after),
    }
    if checkpoints:
        report |= {"output": str(settings.output), "bytes": _saved(model, settings.output)}
        checkpoints.clear()
    return report | {"seconds": round(time.monotonic() - started, 1)}


def _check_output(output):
    if output is None:
        return
    parent = output.parent
    if not parent.is_dir():
        raise UniLoraError(f"--output: there is no folder {parent}; make it first")
    if output.is_dir():
        raise UniLoraError(f"--output: {output} is a folder; give a file, such as {output / 'vec.safetensors'}")
    if not os.access(parent, os.W_OK):
        raise UniLoraError(f"--output: the folder {parent} cannot be written to; give another one")


@contextlib.contextmanager
def _quiet():
    """No reports and bars of the libraries: what they tell of a new head or a short text is meant here."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    more_bars = datasets.are_progress_bars_disabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
        if not more_bars:
            datasets.enable_progress_bars()


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


def _from_base(loader, base, **options):
    try:
        return loader.from_pretrained(base, **options)
    except Exception as error:  # transformers lets the errors of every reader beneath it through
        reason = str(error).strip().split("\n")[0]
        if Path(base).is_dir():
            raise UniLoraError(f"{base}: the base model could not be loaded: {reason}") from error
        if base.count("/") > 1 or base.startswith((".", "/", "~")):  # no id; what the Hub says of it does not help
            raise UniLoraError(f"{base}: there is no such folder; give the base model's folder or id") from error
        raise UniLoraError(f"{base}: no such folder, nor a base model of that id to be had: {reason}") from error


def _base_model(settings, config, rows: Data, tokenizer):
    """The base with a head for the task, and the names of the parameters that it lacked: the head's."""
    transformers.set_seed(settings.seed % 2**32)  # the new head's start; NumPy's seeds end at 2^32
    if settings.task == "causal-lm":
        auto = AutoModelForCausalLM
    else:
        auto, labels = AutoModelForSequenceClassification, rows.labels or ("LABEL_0",)
        config.problem_type = "single_label_classification" if rows.labels else "regression"
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
    if config.get_text_config().pad_token_id is None:
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model, found = _from_base(
        auto, settings.base, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    new = set(found["missing_keys"]) | {name for name, *_ in found["mismatched_keys"]}
    parameters = dict(model.named_parameters())
    new = [name for name in parameters if name in new]
    lacking, total = (sum(parameters[name].numel() for name in names) for names in (new, parameters))
    if lacking > total / 2:
        raise UniLoraError(
            f"{settings.base}: its weights lack {lacking:,} of the {total:,} parameters of {type(model).__name__}"
        )
    return model, new


def _attached(model, settings, new):
    attach(
        model,
        settings.rank,
        settings.dim,
        settings.seed,
        settings.targets,
        ranks=settings.ranks,
        alpha=settings.alpha,
        scaling=settings.scaling,
        kind=settings.kind,
        train_in_full=(*new, *settings.train_in_full),
    )
    if settings.head_only:
        if not model.unilora.trained_in_full():
            raise UniLoraError(f"{settings.base}: it has a head for this task; --head-only has nothing to train")
        theta = model.unilora.theta
        theta.requires_grad_(False)
        theta.detach().zero_()  # the delta weights are exactly zero


class _Trainer(Trainer):
    """Transformers' Trainer, with checkpoints of what is trained and not a word beside it."""

    def save_model(self, output_dir=None, _internal_call=False):
        os.makedirs(output_dir, exist_ok=True)
        save_file(self.model.state_dict(), os.path.join(output_dir, WEIGHTS))

    def _save_checkpoint(self, model, trial):
        try:
            super()._save_checkpoint(model, trial)
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch and safetensors have their own for a full disk
            folder = self.args.output_dir
            shutil.rmtree(Path(folder) / f"checkpoint-{self.state.global_step}", ignore_errors=True)
            raise WorkFailed(
                f"{folder}: a checkpoint could not be written: {error}; those before it are kept, for --resume"
            ) from error


class _Finite(TrainerCallback):
    """Ends a run whose loss is no number any more: nothing comes after it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not math.isfinite(logs.get("loss", 0.0)):
            raise WorkFailed(
                f"the loss is {logs['loss']} at step {state.global_step}; give --overwrite and a lower --lr or --head-lr"
            )


def _trainer(model, settings, rows, tokenizer, folder):
    metrics = METRICS[settings.task]
    theta = model.unilora.theta
    in_full = [model.get_parameter(name) for name in model.unilora.trained_in_full()]
    groups = [{"params": [theta], "lr": settings.lr}] if theta.requires_grad else []
    groups += [{"params": in_full, "lr": settings.head_lr}] if in_full else []
    every = settings.eval_steps or math.ceil(len(rows.train) / settings.batch_size)
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        warmup_steps=settings.warmup,
        seed=settings.seed % 2**32,
        bf16=settings.bf16,
        use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused there
        # Evaluation and checkpoint fall on the same step, in this order: what is resumed has been evaluated.
        eval_strategy="steps" if rows.held_out else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        metric_for_best_model=metrics.main if settings.patience else None,
        greater_is_better=metrics.larger_is_better,
        restore_callback_states_from_checkpoint=True,
        logging_steps=10,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **{checkpointing: settings.gradient_checkpointing},
    )
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # nn.DataParallel copies the model, and θ_D would be rebuilt in each copy
    trainer = _Trainer(
        model,
        arguments,
        data_collator=Batches(tokenizer, settings, rows.numbers, _longest(settings, model, tokenizer), _inputs(model)),
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        compute_metrics=metrics.compute,
        preprocess_logits_for_metrics=metrics.reduce,
        optimizer_cls_and_kwargs=(torch.optim.AdamW, {"params": groups, "weight_decay": settings.weight_decay}),
        callbacks=[_Finite()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _inputs(model):
    return frozenset(inspect.signature(model.forward).parameters)


def _longest(settings, model, tokenizer):
    """Tokens that a text may have: --max-length, or what the base can take where that is less."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or settings.max_length
    return min(settings.max_length, positions, tokenizer.model_max_length)


def _run(trainer, model, settings, checkpoints) -> dict:
    """Trains to the end, or on from the last checkpoint; returns the metrics of the model as it is left."""
    last = None
    if checkpoints:
        checkpoints.start()
        last = checkpoints.last()
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
        model.load_state_dict(load_file(best), strict=False)
    return next((entry for entry in reversed(state.log_history) if entry["step"] == step and "eval_loss" in entry), {})


def _saved(model, output) -> int:
    try:
        return model.save_adapter(output)
    except WorkFailed as error:
        raise WorkFailed(f"{error.message}; the checkpoints are kept, for --resume") from error


def _counted(model, size) -> dict:
    theta = model.unilora.theta
    d = theta.numel() if theta.requires_grad else 0
    in_full = sum(model.get_parameter(name).numel() for name in model.unilora.trained_in_full())
    return {"theta": d, "in_full": in_full, "base": size, "share": (d + in_full) / size}


def _held_out(metrics) -> dict:
    """The metrics of an evaluation without the Trainer's own figures and prefix."""
    names = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    own = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    return {name: value for name, value in names.items() if name not in own}


def _announcement(settings, rows) -> str:
    line = f"{settings.base}: {len(rows.train):,} rows to train on"
    line += f", {len(rows.held_out):,} held out" if rows.held_out else ""
    line += f", {rows.dropped:,} left out for an empty text or label" if rows.dropped else ""
    return line + (f"; {len(rows.labels)} classes" if rows.labels else "")
