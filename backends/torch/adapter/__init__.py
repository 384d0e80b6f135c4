"""The adapter on a PyTorch model: how θ gives factors, and how factors act on the model's weights."""
