"""The task image-classification: images that have one class each."""

import hashlib

from unilora_spec import WorkFailed

from ..rows.images import NoImage, check, check_place, content_of, with_paths
from ..rows.refusals import LeftOut, WrongCell
from .labelled import Classification

COLUMNS = ("image", "img")  # the usual ones


class ImageClassification(Classification):
    """One class for each image. In place of a text, a row has the SHA-256 of its image's file, in hexadecimal
    digits."""

    column = None

    def columns(self, there):
        self.column = (
            self.settings.image or self.column or next((each for each in COLUMNS if each in there), COLUMNS[0])
        )
        return self.column, self.settings.label

    def hint(self, there):
        if self.column in there and self.settings.label == "label":
            return "in a folder of images, put those of each class into a folder of its own; else give --label"
        return "give --image the column of the images, or of their files' names"

    def as_read(self, rows, name):
        return with_paths(rows, self.column, self.settings.label, name)

    def texts_in(self, row, source):
        return self._digests(row[self.column], source.name)

    def given(self, there):
        return self.columns(there)[:1]

    def check_given(self, row):
        self._digests(row[self.column], self.settings.data)

    def _digests(self, cell, source) -> tuple[str]:
        """The digest that a row of ``source`` has in place of texts. Raises ``LeftOut`` and ``WrongCell``."""
        try:
            check_place(cell, source)
            content = content_of(cell)
            if content is None:
                raise LeftOut("image")
            check(content)
        except NoImage as wrong:
            raise WrongCell(self.column, str(wrong)) from None
        return (digest_of(content),)

    def lengths(self, rows):
        return [1] * len(rows)

    def texts(self, rows):
        return [(digest_of(self.content(cell)),) for cell in rows[self.column]]

    def content(self, cell) -> bytes:
        """The bytes of an image's file. Raises ``WorkFailed`` where it is not there any more."""
        try:
            return content_of(cell)
        except NoImage as wrong:
            raise WorkFailed(
                f"{self.settings.data}: an image that was sound before {wrong}; leave the files as they are while this runs"
            ) from None


def digest_of(content: bytes) -> str:
    """The digest that a row with this image has in place of a text."""
    return hashlib.sha256(content).hexdigest()
