"""Exceptions that a task raises for one row."""


class LeftOut(Exception):
    """A row is left out; the text says what it lacks, such as "label"."""


class WrongCell(Exception):
    """A cell ends the run: its column, and what is wrong and what to do, as the rest of a sentence that begins with
    "COLUMN of row 3 of FILE"."""

    def __init__(self, column: str, what: str):
        super().__init__(column, what)
        self.column, self.what = column, what
