"""The commands of ``python -m export``, each as its function."""
