"""The training of ``python -m backends.torch train``, from settings to an adapter's file."""
