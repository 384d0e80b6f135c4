"""How calls come in, and what each of them sees of the adapter."""
