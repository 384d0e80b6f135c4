"""Measurements; ``python -m benchmarks``."""

import unilora_spec  # noqa: F401  first, as its first import lets Ctrl-C end in a sentence
