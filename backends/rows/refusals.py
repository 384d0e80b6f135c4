"""What is said of one row."""


class LeftOut(Exception):
    """A row that is left out; the text says of what it has none, such as "label"."""


class WrongCell(Exception):
    """A cell that ends the run: its column, and what is wrong with it and the mend, as what follows "COLUMN of row 3 of FILE"."""

    def __init__(self, column: str, what: str):
        super().__init__(column, what)
        self.column, self.what = column, what
