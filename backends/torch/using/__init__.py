"""Uses a trained adapter: evaluates it, predicts and generates with it, writes its card, and shares it."""
