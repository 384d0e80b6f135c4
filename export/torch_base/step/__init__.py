"""The graph of a step of training: from a PyTorch model and its loss to loss, logits and the gradients of what is trained."""
