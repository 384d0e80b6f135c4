"""θ and P on a model: θ → θ_D → the factors of all segments."""
