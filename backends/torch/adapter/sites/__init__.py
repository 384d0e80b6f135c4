"""Sites: each lets the factors of its segments act on one module, beside its product or in its weight."""
