"""The scripts in examples/: how each is run, and what examples/README.md says that it prints.

``python tests/example_scripts.py`` runs those whose packages are installed and writes what they print into examples/README.md.
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from warmed import warmed

ROOT = Path(__file__).parents[1]
README = ROOT / "examples/README.md"
NEEDS = {
    "plain_module.py": "torch",
    "with_trainer.py": "transformers",
    "with_trl.py": "trl",
    "with_sentence_transformers.py": "sentence_transformers",
    "with_diffusers.py": "diffusers",
    "onnx_swap.py": "onnxruntime",
    "bank_server.py": "onnxruntime",
    "numpy_alone.py": "numpy",
    "balanced.c": "numpy",
}
OF_PEERS = ("with_trl.py", "with_sentence_transformers.py", "with_diffusers.py")
# Examples of PyTorch run in processes in which this is imported already. transformers is not: a module of one's own is adapted and
# exported without it, and it takes seconds.
IMPORTS = """
import onnxruntime, onnxscript.function_libs.torch_lib.ops, torch._dynamo, torch.export._trace
import backends.torch.adapter.attach, export.torch_base.from_torch
"""
RUN = """
import sys
from runpy import run_path
run_path(sys.argv[1], run_name="__main__")
if "transformers" in sys.modules and sys.argv[2] != "transformers":
    sys.exit("transformers was imported")
"""


def is_here(name: str) -> bool:
    """Whether the package that an example is about is installed."""
    return find_spec(NEEDS[name]) is not None


def printed(name: str, folder: Path) -> str:
    """What an example prints where it is run in ``folder``."""
    if NEEDS[name] in ("torch", "transformers", "onnxruntime"):
        program = warmed(IMPORTS, HF_HUB_OFFLINE="1")
        done = program.run(RUN, ROOT / "examples" / name, NEEDS[name], cwd=folder, timeout=280)
    else:
        done = _alone(name, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _alone(name, folder):
    command = [sys.executable, str(ROOT / "examples" / name)]
    if name.endswith(".c"):
        source = ROOT / "examples" / name
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", folder / "it", source, "-lm"], check=True)
        command = [folder / "it", "36864", "5760", "42"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=280
    )


def listed() -> dict[str, str]:
    """What README.md says that each prints, by its name; empty where it says nothing yet."""
    parts = re.split(r"^## (\S+)$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = {name: re.search(r"```text\n(.*?)```", text, re.DOTALL) for name, text in zip(parts[1::2], parts[2::2])}
    return {name: block[1] if block else "" for name, block in blocks.items()}


def write() -> None:
    """Puts what they print now into README.md."""
    text = README.read_text(encoding="utf-8")
    for name in filter(is_here, listed()):
        with tempfile.TemporaryDirectory() as folder:
            output = printed(name, Path(folder))
        head, heading, rest = text.partition(f"## {name}")
        own, mark, others = rest.partition("\n## ")
        own = re.sub(r"\n```text\n.*?```\n", "", own, flags=re.DOTALL).rstrip()
        text = f"{head}{heading}{own}\n\n```text\n{output}```\n{mark}{others}"
        print(f"{name}\n{output}", flush=True)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
