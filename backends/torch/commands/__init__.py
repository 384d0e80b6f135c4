"""The commands of ``python -m backends.torch``, a function each."""
