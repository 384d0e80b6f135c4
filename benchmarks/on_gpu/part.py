"""The process of one part: ``python -m benchmarks.on_gpu.part MODULE FINDINGS --seconds S [--gpu] [--files FOLDER]``.

Each finding is a line of JSON in the file FINDINGS as soon as it is known: what a process that hangs or crashes has found stays.
"""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

from .findings import Context, guarded


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu.part")
    parser.add_argument("module")
    parser.add_argument("findings", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--files", type=Path)
    call = parser.parse_args()
    context = Context(call.gpu, time.monotonic() + call.seconds, call.files)
    with call.findings.open("a", encoding="utf-8") as lines:
        for finding in guarded("the part", _findings_of(call.module, context)):
            lines.write(json.dumps(finding) + "\n")
            lines.flush()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # all findings are written: drivers and libraries may take seconds at the end of a process, or crash


def _findings_of(module, context):
    yield from importlib.import_module(module).findings(context)  # imported here, as the import may be what fails


if __name__ == "__main__":
    main()
