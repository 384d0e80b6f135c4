"""``python -m export onnx --adapter vec.safetensors``."""

from typer.main import get_command

from unilora_spec.command import program_name, run

from .commands import folders, models  # noqa: F401  each adds its commands to the program, in this order
from .commands.app import app

if __name__ == "__main__":
    run(lambda: get_command(app).main(prog_name=program_name("export"), standalone_mode=False))
