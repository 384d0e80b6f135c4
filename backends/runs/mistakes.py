"""Collects an adapter's mistakes: its most certain wrong answers, and which classes it takes for which."""

from collections import Counter
from collections.abc import Callable, Iterable

from ..tasks.task import Task
from .tables import rounded


class Mistakes:
    """Wrong answers, with the numbers of their rows; where answers are numbers or texts, all rows, ordered by how far
    off they are."""

    SHOWN = 10
    MOST_ANSWERS = 50  # different generated answers, above which counting which is taken for which is of no use

    def __init__(self):
        self.rows, self.entries, self.confusion, self.by = 0, [], Counter(), None

    def of_answers(self, numbers: Iterable[int], rows, task: Task, outputs) -> None:
        """Adds the mistakes in a batch of a model with a head."""
        for number, row, (prediction, probability, _) in zip(numbers, rows, task.predicted(outputs, rows)):
            self.rows += 1
            answer = task.answer(row)
            if probability is None:
                self.by = "error"
                error = rounded(abs(prediction - answer))
                self.entries.append((number, {"answer": answer, "prediction": rounded(prediction), "error": error}))
                continue
            self.by = "probability"
            confused = task.confused(answer, prediction) if prediction != answer else ()
            if confused:
                self.confusion.update(confused)
                probability = rounded(probability)
                self.entries.append((number, {"answer": answer, "prediction": prediction, "probability": probability}))

    def of_texts(self, numbers: Iterable[int], losses, tokens) -> None:
        """Adds a batch of a language model: the summed loss of each text, and its number of tokens."""
        self.by = "loss"
        for number, loss, count in zip(numbers, losses.tolist(), tokens.tolist()):
            self.rows += 1
            self.entries.append((number, {"loss": rounded(loss / max(count, 1)), "tokens": int(count)}))

    def of_generated(self, answers, texts, hits, comparison) -> None:
        """Adds the generated answers that are wrong (no ``hits``), in the order of the rows."""
        self.rows = len(answers)
        few = len(set(answers)) <= self.MOST_ANSWERS
        for number, (answer, text, hit) in enumerate(zip(answers, texts, hits)):
            if not hit:
                self.entries.append((number, {"answer": answer, "prediction": text or ""}))
                if few:
                    self.confusion[comparison.found(answer), comparison.answered(text)] += 1

    def table(self, cells_of: Callable[[int], dict]) -> list[dict]:
        """All mistakes, the most certain or the furthest off first, each with the cells that ``cells_of`` gives for its
        row."""
        ordered = sorted(self.entries, key=lambda each: (-each[1].get(self.by, 0), each[0]))
        return [cells_of(number) | entry for number, entry in ordered]

    def columns(self, texts: Iterable[str]) -> list[str]:
        """The columns of ``table`` for rows with these columns of texts."""
        own = self.entries[0][1] if self.entries else {"answer": None, "prediction": None}
        return ["row", *texts, *own]

    def report(self) -> dict:
        """A report: ``by``, what the mistakes are ordered by; ``of``, the number of rows. Where answers are right or
        wrong, also ``wrong``, the number of wrong ones, and ``confusion``, how often each class is taken for which."""
        if self.by in ("error", "loss"):
            return {"by": self.by, "of": self.rows}
        confusion = [
            {"answer": answer, "prediction": prediction, "count": count}
            for (answer, prediction), count in sorted(self.confusion.items(), key=lambda each: (-each[1], str(each[0])))
        ]
        return {"by": self.by, "wrong": len(self.entries), "of": self.rows, "confusion": confusion}
