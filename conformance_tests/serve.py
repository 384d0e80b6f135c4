"""``python -m conformance_tests.serve package.module``: a Python module with ``answer(request)`` as a command (PROTOCOL.md)."""

import importlib
import json
import os
import sys


def serve(answer) -> None:
    """Answers each line of standard input with ``answer``'s dictionary. What ``answer`` prints goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        for line in sys.stdin.buffer:
            output.write(json.dumps(answer(json.loads(line))) + "\n")
            output.flush()


if __name__ == "__main__":
    serve(importlib.import_module(sys.argv[1]).answer)
