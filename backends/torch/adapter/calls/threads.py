"""What each thread has of its own."""

import threading


class PerThread(threading.local):
    """Attributes that are each thread's own, with the class's values at first; a copy begins with those again."""

    def __reduce__(self):
        return type(self), ()
