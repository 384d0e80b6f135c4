"""A base that is a PyTorch model: loaded, run, traced."""
