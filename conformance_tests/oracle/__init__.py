"""The tests' own truth: SPEC.md once more in plain Python, slow, obvious, and written from the text, not from the library.

So the reference can be wrong too, and fail. ``arithmetic`` is chapters 2 to 6, ``files`` chapters 7 and 8.
"""
