"""The console script ``unilora``. Each of its commands belongs to a program that ``python -m`` runs as well.

A program is imported only when one of its commands is called, so that ``unilora --help`` answers at once, also where packages that some
programs need are not installed. Without an extra, ``pip install unilora`` can run ``inspect`` and ``verify``.
"""

import difflib
import os
import runpy
import sys
from importlib.metadata import version
from typing import NamedTuple, NoReturn

from .command import NotInstalled, is_not_installed, run
from .errors import UniLoraError


class Command(NamedTuple):
    """A command of the script: the module that has it, and what it does."""

    module: str
    does: str


COMMANDS = {
    "train": Command("backends.torch", "train one vector on a base model and write it to a file"),
    "start": Command("backends.torch", "write an adapter with its initial values, for a training that runs elsewhere"),
    "plan": Command("backends.torch", "show an adapter's layers, sizes and memory, from the base's config.json alone"),
    "evaluate": Command("backends.torch", "measure an adapter on rows whose answers are known"),
    "predict": Command("backends.torch", "write rows with what an adapter predicts for them"),
    "generate": Command("backends.torch", "generate text with an adapter of a language model, or chat"),
    "adapter": Command("backends.torch", "make an adapter's file of a trainer's checkpoint"),
    "push": Command("backends.torch", "upload an adapter and its card to the Hugging Face Hub"),
    "pull": Command("backends.torch", "download an adapter from the Hugging Face Hub"),
    "export": Command("export", "turn an adapter into files that others run: export onnx, lora, gguf, merge, …"),
    "onnx": Command("backends.onnx", "train where only ONNX Runtime is: onnx train, onnx evaluate"),
    "inspect": Command("unilora_spec", "show what an adapter's file holds"),
    "verify": Command("unilora_spec", "check that an adapter's file is sound and fits a base"),
    "conformance": Command("conformance_tests", "test an implementation of SPEC.md in any language"),
}
GROUPS = ("export", "onnx", "conformance")  # programs with commands of their own, which get the words that follow
COMPLETION = ("--install-completion", "--show-completion")


def main() -> None:
    """Runs the command that ``sys.argv`` names, and exits with its status."""
    words = sys.argv[1:]
    if "_UNILORA_COMPLETE" in os.environ or words[:1] and words[0] in COMPLETION:
        run(_complete)
    elif words and words[0] in COMMANDS:
        _call(*words)
    else:
        run(lambda: _without_program(words))


def _call(name: str, *arguments: str) -> None:
    """Runs a program in the place of this one, as ``python -m`` would."""
    module = COMMANDS[name].module
    sys.argv[1:] = arguments if name in GROUPS else (name, *arguments)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:  # raised by an import, as ``run`` lets no error out
        if not is_not_installed(error):
            raise
        missing = NotInstalled(error.name, module, f"unilora {name}")
        run(lambda: _refuse(missing))


def _refuse(refusal: UniLoraError) -> NoReturn:
    raise refusal


def _without_program(words: list[str]) -> int:
    """Answers a call that names no program: the help, the version, or a refusal. Returns the exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"unilora {version('unilora')}")
        return 0
    near = difflib.get_close_matches(words[0], COMMANDS, 1)
    meant = f"did you mean {near[0]}" if near else "unilora --help lists them"
    raise UniLoraError(f"unilora has no command {words[0]!r}; {meant}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "Usage: unilora COMMAND …",
            "",
            "Fine-tune a model with one vector, keep it in one file, run it anywhere.",
            "",
            *(f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items()),
            "",
            "unilora COMMAND --help shows the options of a command, and --version which release this is.",
            "unilora --install-completion lets your shell complete commands and options.",
        ]
    )


def _complete() -> int:
    try:
        from .completion import complete
    except ModuleNotFoundError as error:
        raise NotInstalled(error.name, "export", "completion") from None
    return complete()
