"""``python -m conformance_tests.serve package.module``: a Python module with ``answer(request)`` as a command (PROTOCOL.md)."""

import importlib
import sys

from unilora_spec.protocol import serve

if __name__ == "__main__":
    serve(importlib.import_module(sys.argv[1]).answer)
