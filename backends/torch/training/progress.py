"""Shows how far a run of transformers' ``Trainer`` is."""

from transformers import TrainerCallback

from ...runs.progress import Progress


class TrainerProgress(Progress, TrainerCallback):
    """Shows the step, the loss and each evaluation of a ``Trainer``'s run."""

    evaluated = 0

    def on_weight(self, done: int, total: int) -> None:
        """Shows how many of the base's weights are prepared, for kinds that begin with their singular vectors."""
        self.at("weight", done, total)

    def on_train_begin(self, args, state, control, **kwargs):
        self.step(state.global_step, state.max_steps)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = logs.get("loss", self.loss)

    def on_step_end(self, args, state, control, **kwargs):
        self.step(state.global_step, state.max_steps)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self.evaluated += 1
        self.at("held-out batch", self.evaluated, len(eval_dataloader))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.evaluated = 0
        held_out = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        self.evaluation(held_out, state.global_step, state.max_steps)
