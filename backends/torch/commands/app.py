"""The program that the commands are of."""

from functools import partial

from ...runs import commands

app = commands.program("Plan, train and use Uni-LoRA adapters with PyTorch.")
command = partial(commands.command, app)
