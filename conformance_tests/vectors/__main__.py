"""``python -m conformance_tests.vectors``: writes the known answers."""

import argparse

from unilora_spec.command import run as run_command
from unilora_spec.serialization import replacing

from . import FOLDER, texts


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m conformance_tests.vectors",
        description=f"Writes the known answers into {FOLDER.name}, from the oracle.",
    ).parse_args()
    for name, text in texts().items():
        with replacing(FOLDER / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"{name}: {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    run_command(main)
