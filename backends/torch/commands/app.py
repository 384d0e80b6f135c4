"""The program to which the commands belong."""

from functools import partial

from ...runs import commands

app = commands.program("Plan, train and use Uni-LoRA adapters with PyTorch.")
command = partial(commands.command, app)
