"""Writes and reads the state of a Trainer's run as a file of ``runs.state``, from which any backend goes on."""

import math
from pathlib import Path

import torch

from unilora_spec.serialization import SAVED

from ...runs.state import MOMENTS, State, load_state, run_of, save_state


class StateFiles:
    """The states of a run of ``trainer`` on ``model``: it writes them to ``settings.state`` and reads them from
    ``settings.from_state``."""

    def __init__(self, trainer, model, settings, rows: int):
        self.trainer, self.model, self.settings = trainer, model, settings
        self.epoch_steps = math.ceil(rows / settings.batch_size)
        steps = settings.max_steps or math.ceil(settings.epochs * self.epoch_steps)
        self.steps, self.run = steps, run_of(settings, settings.seed, rows, steps)

    def write(self, optimizer, step: int) -> None:
        """Writes the state after ``step`` steps of ``optimizer``, where ``settings.state`` is set. Raises
        ``WorkFailed`` where the disk refuses."""
        if not self.settings.state:
            return
        adapter = self.model.unilora.adapter()
        state = State.of(adapter)
        state.step = step
        for name, parameter in self._parameters().items():
            for moment in MOMENTS:
                getattr(state, moment)[name] = optimizer.state[parameter][moment].detach().cpu().numpy()
        save_state(state, adapter, self.run, self.settings.state)

    @torch.no_grad()
    def read(self) -> Path | None:
        """Makes a checkpoint of this run of the state in ``settings.from_state`` and returns its folder; None where
        that is not set.

        Raises ``UniLoraError`` where the file holds no state, or that of another run.
        """
        if not self.settings.from_state:
            return None
        trainer, state = self.trainer, load_state(self.settings.from_state, self.model.unilora.adapter(), self.run)
        trainer.create_optimizer_and_scheduler(self.steps)
        for name, parameter in self._parameters().items():
            values = {kind: torch.from_numpy(getattr(state, kind)[name]).to(parameter) for kind in ("values", *MOMENTS)}
            parameter.copy_(values.pop("values"))
            trainer.optimizer.state[parameter] = {"step": torch.tensor(float(state.step)), **values}
        schedule = trainer.lr_scheduler
        schedule.load_state_dict(schedule.state_dict() | {"last_epoch": state.step, "_step_count": state.step + 1})
        for group, rate, share in zip(trainer.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas):
            group["lr"] = rate * share(state.step)
        trainer.state.compute_steps(trainer.args, self.steps)
        trainer.state.train_batch_size = trainer._train_batch_size
        trainer.state.global_step, trainer.state.max_steps = state.step, self.steps
        trainer.state.epoch = state.step / self.epoch_steps
        trainer._save_checkpoint(self.model, None)
        return Path(trainer.args.output_dir, f"checkpoint-{state.step}")

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters, by their names in a state."""
        in_full = self.model.unilora.trained_in_full()
        return {"theta": self.model.unilora.theta} | {SAVED + name: self.model.get_parameter(name) for name in in_full}
