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

from .findings import Given, tried


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu.part")
    parser.add_argument("module")
    parser.add_argument("findings", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--files", type=Path)
    call = parser.parse_args()
    given = Given(call.gpu, time.monotonic() + call.seconds, call.files)
    with call.findings.open("a", encoding="utf-8") as lines:
        for finding in tried("the part", _found(call.module, given)):
            lines.write(json.dumps(finding) + "\n")
            lines.flush()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # all is said: what drivers and libraries do at the end of a process may take seconds, or crash


def _found(module, given):
    yield from importlib.import_module(module).findings(given)  # within: an import may be what fails


if __name__ == "__main__":
    main()
