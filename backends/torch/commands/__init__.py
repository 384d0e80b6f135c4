"""The commands of ``python -m backends.torch``, each as its function."""
