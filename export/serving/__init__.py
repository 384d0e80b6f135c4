"""Adapters for servers of language models: from files to what a server loads while it runs."""
