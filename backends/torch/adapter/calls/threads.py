"""Attributes that each thread has for itself."""

import threading


class PerThread(threading.local):
    """An object whose attributes each thread has for itself, beginning with the class's values; a copy begins with
    those again."""

    def __reduce__(self):
        return type(self), ()
