"""``make implementations``: runs the conformance tests against all that is here, and writes docs/implementations.md."""

import subprocess
import sys
from pathlib import Path

PYTHON = sys.executable
OURS = {  # the report's name: how it is called, and what the page says of it
    "unilora_spec": ("unilora_spec.conformance", "NumPy, the reference"),
    "torch": ("backends.torch.conformance", "PyTorch, what attach computes with"),
    "jax": ("backends.jax.conformance", "JAX, what a model in JAX computes with"),
    "onnx": ("backends.onnx.conformance", "the files that training in ONNX Runtime reads and writes"),
    "export": ("export.conformance", "ONNX Runtime, the functions of exported graphs"),
    "c": ("{folder}/unilora", "C, one file: conformance_tests/examples/unilora.c"),
    "javascript": (
        "node conformance_tests/examples/unilora.mjs",
        "JavaScript, one file: conformance_tests/examples/unilora.mjs",
    ),
}


def main(folder: Path) -> None:
    for name, (command, note) in OURS.items():
        report = folder / f"{name}.json"
        call = ["--impl", command.format(folder=folder), "--timeout", "120", "--json", str(report)]
        status = subprocess.run([PYTHON, "-m", "conformance_tests", *call], check=False).returncode
        if status > 1:  # 1 is a failure of a check, which the page then shows
            sys.exit(status)
        page = [PYTHON, "-m", "conformance_tests.implementations", str(report), "--note", note]
        subprocess.run(page, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
