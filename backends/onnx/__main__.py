"""Runs ``python -m backends.onnx``, such as ``python -m backends.onnx train --graph step.onnx …``."""

from typer.main import get_command

from unilora_spec.command import run

from .commands import app

if __name__ == "__main__":
    run(lambda: get_command(app).main(prog_name="python -m backends.onnx", standalone_mode=False))
