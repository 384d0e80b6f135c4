"""The training loop: transformers' Trainer, set up by a run's settings."""

import contextlib
import dataclasses
import math
import os
import shutil
from pathlib import Path

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from unilora_spec import WorkFailed

from ...rows.order import LikeLengths
from ...runs.ending import check_finite
from ..optimizers import LoraPro, LoraRite

WEIGHTS = "model.safetensors"  # the name that a Trainer looks for


class _Trainer(Trainer):
    """Transformers' Trainer, silent, and with checkpoints that hold only what is trained.

    A batch is shared by all processes: its rows follow from seed and epoch alone, each process takes its part of them,
    a micro-batch at a time, and the loss is the mean over the whole batch. Accelerate's own loader would fill up a last
    batch of fewer rows.
    """

    def __init__(self, *arguments, task, sampler, **options):
        self.task, self._sampler, self.checkpoints, self.state_files = task, sampler, None, None
        super().__init__(*arguments, data_collator=task.batch, **options)

    def write_to(self, checkpoints, state_files=None) -> None:
        """From here on ``checkpoints`` (``Checkpoints``) completes each checkpoint and removes old ones, and
        ``state_files`` (``StateFiles``) writes the state with each."""
        self.checkpoints, self.state_files, self.args.save_total_limit = checkpoints, state_files, None

    def get_train_dataloader(self):
        whole = DataLoader(
            self.train_dataset,
            self._sampler.batch_size,
            sampler=self._sampler,
            collate_fn=self._own_part,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(whole, num_processes=1, process_index=0)

    def _own_part(self, rows):
        """The micro-batches of this process."""
        own = rows[self.args.process_index :: self.args.world_size]
        size = self.task.settings.micro_batch or max(1, len(own))
        pieces = [own[start : start + size] for start in range(0, len(own), size)]
        # A process without rows still runs one, which does not count, as the others wait for its gradient.
        batches = [self.task.training_batch(piece, self._sampler.epoch) for piece in pieces or [rows[:1]]]
        return [batch | {"items": self.task.items(batch["labels"]) if own else 0} for batch in batches]

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Computes the gradient of one step, the sum over the micro-batches ``inputs``; the last one is synchronized
        with other processes."""
        items = torch.tensor(sum(batch["items"] for batch in inputs), device=self.args.device)
        self._items = self.accelerator.reduce(items).clamp(min=1)
        losses = []
        for number, batch in enumerate(inputs, 1):
            waits = number == len(inputs)
            with contextlib.nullcontext() if waits else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, batch))
        return sum(losses)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The share of a micro-batch in the mean loss over all items of the step's batch."""
        items = inputs.pop("items")
        loss, _ = self.task.loss(model, inputs)
        return loss * (items * self.args.world_size / self._items)  # DDP divides the sum of gradients by the processes

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            _, outputs = self.task.loss(model, inputs)
            measured = self.task.measure(outputs, inputs)
        return None, tuple(each.detach() for each in measured), inputs["labels"]

    def save_model(self, output_dir=None, _internal_call=False):
        if not self.args.should_save:
            return
        os.makedirs(output_dir, exist_ok=True)
        save_file(self.model.state_dict(), os.path.join(output_dir, WEIGHTS))

    def _save_checkpoint(self, model, trial):
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # until each process has written its random state
            if self.checkpoints and self.args.should_save:
                self.checkpoints.complete(self._checkpoint(), self.state.best_global_step)
            if self.state_files and self.args.should_save:
                self.state_files.write(self.optimizer, self.state.global_step)
            self.accelerator.wait_for_everyone()  # until the checkpoint is whole
        except (OSError, RuntimeError, SafetensorError) as error:  # for a full disk, also torch's and safetensors'
            folder = self.args.output_dir
            shutil.rmtree(self._checkpoint(), ignore_errors=True)
            reason = str(error) if isinstance(error, OSError | SafetensorError) else "the disk is full, or refuses"
            raise WorkFailed(
                f"{folder}: a checkpoint could not be written: {reason}; those before it are kept, for --resume"
            ) from error

    def _checkpoint(self) -> Path:
        return Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")


class _Finite(TrainerCallback):
    """Ends a run whose loss is no number any more."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = logs.get("loss", logs.get("train_loss", 0.0))  # of the last steps, or at the end of all steps
        check_finite(loss, state.global_step)


class _Steps(TrainerCallback):
    """Sets the step of the training noise, also in a resumed run."""

    def __init__(self, noise):
        self.noise = noise

    def on_step_begin(self, args, state, control, **kwargs):
        self.noise.at(state.global_step, state.max_steps)


def make_trainer(model, groups, settings, rows, task, folder) -> Trainer:
    """A Trainer for ``model`` that steps these parameter ``groups`` on the batches of ``task``; checkpoints go to ``folder``."""
    every = settings.eval_steps or math.ceil(len(rows.train) / settings.batch_size)
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        max_grad_norm=settings.clip,
        seed=settings.seed % 2**32,
        bf16=settings.bf16,
        use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused on a CPU
        # Evaluation and checkpoint fall on the same step, in this order, so that a resumed checkpoint has been
        # evaluated.
        eval_strategy="steps" if rows.held_out else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        metric_for_best_model=task.main if settings.patience else None,
        greater_is_better=task.larger_is_better,
        restore_callback_states_from_checkpoint=True,
        logging_steps=10,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=False,  # ``compute_loss`` does it for every task
        # θ and a new head have a gradient in every step; a module that a user names, such as an expert, may have none.
        ddp_find_unused_parameters=bool(settings.train_in_full),
        **{checkpointing: settings.gradient_checkpointing},
    )
    # nn.DataParallel copies the model, and θ_D would be rebuilt in each copy
    arguments._n_gpu = min(arguments.n_gpu, 1)
    own = math.ceil(settings.batch_size / arguments.world_size)
    own = min(own, settings.micro_batch or own)
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = own
    # A Trainer refuses a quantized base unless an adapter of PEFT is on it, the only one that it knows.
    model._hf_peft_config_loaded = True
    trainer = _Trainer(
        model,
        arguments,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        compute_metrics=lambda held_out: task.metrics(*held_out.predictions),
        optimizers=(_optimizer(model, groups, settings), None),
        callbacks=[_Finite(), *([_Steps(model.unilora.noise)] if settings.noise else [])],
        task=task,
        sampler=LikeLengths(task.lengths(rows.train), settings.batch_size, settings.seed),
    )
    del model._hf_peft_config_loaded
    trainer.remove_callback(PrinterCallback)
    # An evaluation before the training would prepare the model without DDP, and the training would leave it so.
    trainer.model_wrapped = trainer.accelerator.prepare_model(model)
    return trainer


def _optimizer(model, groups, settings):
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    options = {"lr": settings.lr, "weight_decay": settings.weight_decay, "others": groups[1:]}
    if settings.optimizer == "lora-rite":
        return LoraRite(model.unilora, **options)
    return LoraPro(model.unilora, **options, efficient=settings.optimizer == "lora-pro-efficient")
