"""Trains the links of a chain in turn (SPEC 11.15)."""

import bisect

from transformers import TrainerCallback

from unilora_spec import UniLoraError


class Links(TrainerCallback):
    """Gives each link as many steps as any other, or one more, with a fresh optimizer and a learning rate that rises and falls anew.

    The step alone decides which link is trained, and θ shows how far the chain has come, so that a run that goes on
    from a checkpoint goes on in the right link. ``say`` is called with a line for each link.
    """

    def __init__(self, unilora, say):
        self.unilora, self.say = unilora, say

    def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        links = self.unilora.projection.links
        if state.max_steps < links:
            raise UniLoraError(
                f"there are {state.max_steps} steps for {links} links; give more --epochs or --max-steps, or fewer --links"
            )
        # The first step of each link, and the end of the last.
        self.first = [-(-state.max_steps * link // links) for link in range(links + 1)]

        def rate(step):
            link = min(self._link(step), links - 1)
            step, steps = step - self.first[link], self.first[link + 1] - self.first[link]
            rising = args.get_warmup_steps(steps)
            return step / rising if step < rising else (steps - step) / max(1, steps - rising)

        lr_scheduler.lr_lambdas = [rate] * len(lr_scheduler.lr_lambdas)

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        # Not at the end of a step, when the finished link is still evaluated and saved.
        while self.unilora.link < self._link(state.global_step):
            link = self.unilora.next_link()
            optimizer.state.clear()
            self.say(f"link {link + 1} of {self.unilora.projection.links}")

    def _link(self, step):
        return bisect.bisect(self.first, step) - 1
