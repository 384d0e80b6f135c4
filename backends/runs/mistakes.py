"""Where an adapter is wrong: the most certain wrong answers, and which classes are taken for which."""

from collections import Counter
from collections.abc import Callable, Iterable

from ..tasks.task import Task
from .tables import rounded


class Mistakes:
    """Wrong answers, with the numbers of their rows; of numbers and texts, all rows by how far off they are."""

    SHOWN = 10
    MOST_ANSWERS = 50  # of generated ones, above which it is of no use to count which is taken for which

    def __init__(self):
        self.rows, self.entries, self.confusion, self.by = 0, [], Counter(), None

    def of_answers(self, numbers: Iterable[int], rows, task: Task, outputs) -> None:
        """Of a batch of a model with a head."""
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
        """Of a batch of a language model, the summed loss of each text and its tokens."""
        self.by = "loss"
        for number, loss, count in zip(numbers, losses.tolist(), tokens.tolist()):
            self.rows += 1
            self.entries.append((number, {"loss": rounded(loss / max(count, 1)), "tokens": int(count)}))

    def of_generated(self, answers, texts, hits, comparison) -> None:
        """Of generated answers: those that are no ``hits``, in the order of the rows."""
        self.rows = len(answers)
        few = len(set(answers)) <= self.MOST_ANSWERS
        for number, (answer, text, hit) in enumerate(zip(answers, texts, hits)):
            if not hit:
                self.entries.append((number, {"answer": answer, "prediction": text or ""}))
                if few:
                    self.confusion[comparison.found(answer), comparison.answered(text)] += 1

    def table(self, told: Callable[[int], dict]) -> list[dict]:
        """All of them, the most certain or the furthest off first, each with what is ``told`` of its row."""
        ordered = sorted(self.entries, key=lambda each: (-each[1].get(self.by, 0), each[0]))
        return [told(number) | entry for number, entry in ordered]

    def columns(self, texts: Iterable[str]) -> list[str]:
        """The columns of ``table``, of rows with these columns of texts."""
        own = self.entries[0][1] if self.entries else {"answer": None, "prediction": None}
        return ["row", *texts, *own]

    def report(self) -> dict:
        """``by``: what they are ordered by. Where answers are right or wrong, ``wrong``: how many are, and ``confusion``: which are taken
        for which."""
        if self.by in ("error", "loss"):
            return {"by": self.by, "of": self.rows}
        confusion = [
            {"answer": answer, "prediction": prediction, "count": count}
            for (answer, prediction), count in sorted(self.confusion.items(), key=lambda each: (-each[1], str(each[0])))
        ]
        return {"by": self.by, "wrong": len(self.entries), "of": self.rows, "confusion": confusion}
