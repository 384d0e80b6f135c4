"""The task token-classification: texts as words with a tag each, such as names in a text or parts of speech."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from unilora_spec import UniLoraError

from ..rows.labels import is_missing, value_of
from ..rows.refusals import LeftOut, WrongCell
from . import classes
from .losses import NOT_LEARNED, cross_entropy, softmax
from .task import Predicted, Task

# The usual columns, taken where --text and --label are left at their defaults.
WORDS, TAGS = "tokens", ("ner_tags", "tags", "labels", "pos_tags")
EXAMPLE = 'give rows of a .jsonl file such as {"tokens": ["Ada", "smiled"], "ner_tags": ["B-PER", "O"]}'


class TokenClassification(Task):
    """One class for each word. A word's first piece has its tag; the others, and what a tokenizer adds, have −100 and are not learned."""

    main, larger_is_better = "accuracy", True

    def columns(self, there):
        (self.words,), self.tags = self.settings.text, self.settings.label
        if self.words not in there and self.words == "text":
            self.words = WORDS
        if self.tags not in there and self.tags == "label":
            self.tags = next((column for column in TAGS if column in there), TAGS[0])
        return self.words, self.tags

    def hint(self, there):
        return f"token-classification reads a list of words and a list of tags: {EXAMPLE}"

    def look(self, row, source):
        words, tags = row[self.words], row[self.tags]
        for column, cell in ((self.words, words), (self.tags, tags)):
            if not (cell is None or isinstance(cell, list)):
                raise WrongCell(column, f"is {str(cell)!r:.60}, and a list is needed; {EXAMPLE}")
        if not words:
            raise LeftOut("words")
        if tags is None:
            raise LeftOut("tags")
        if len(words) != len(tags):
            raise WrongCell(
                self.tags, f"has {len(tags)} tags, and there are {len(words)} words; give each word its tag"
            )
        if not all(isinstance(word, str) for word in words):
            raise WrongCell(self.words, f"holds {next(w for w in words if not isinstance(w, str))!r:.60}; give words")
        if any(is_missing(tag, is_text=False) or isinstance(tag, list | dict) for tag in tags):
            raise WrongCell(self.tags, "has a word without a tag; give each word its tag, O where it is of no class")
        return (" ".join(words),), tuple(dict.fromkeys(map(value_of, tags)))

    def lengths(self, rows):
        return [sum(map(len, words)) + len(words) for words in rows[self.words]]

    def texts(self, rows):
        return [(" ".join(words),) for words in rows[self.words]]

    def learn(self, source, held_out):
        """Takes the classes from ``source``, in the base's order if they are the base's own. Tags of ``held_out`` have
        to be among them.

        Where tags begin with B- or I-, the main metric is the F1 of whole entities.
        """
        names, named = classes.learned(self.tags, source, held_out)
        if len(names) < 2:
            raise UniLoraError(
                f"{source.name}: {self.tags} has only the value {names[0]!r}; classification needs rows of two classes or more"
            )
        self.labels = classes.in_order(names, self.base_labels)
        self.numbers = {value: self.labels.index(name) for value, name in named.items()}
        if self._has_entities() and not self.settings.metric:
            self.main = "f1"

    def _has_entities(self):
        return any(name.startswith(("B-", "I-")) for name in self.labels)

    def remarks(self, source, train):
        rows = {row: [self.labels[self.numbers[tag]] for tag in tags] for row, tags in source.values.items()}
        counts = (
            Counter(name for names in rows.values() for name in names),
            Counter(name for row in train for name in rows[row]),
        )
        said = classes.remarks(self.tags, source.name, self.labels, *counts)
        if (self.words, self.tags) != (*self.settings.text, self.settings.label):
            said.insert(
                0, f"{source.name}: the words are those of the column {self.words!r}, the tags of {self.tags!r}"
            )
        return said

    def reads(self, tokenizer, positions, inputs):
        super().reads(tokenizer, positions, inputs)
        if not tokenizer.is_fast:
            raise UniLoraError(
                f"{self.settings.base}: its tokenizer cannot say which word a piece belongs to; give a base with a tokenizer.json"
            )

    def given(self, there):
        return self.columns(there)[:1]

    def check_given(self, row):
        words = row[self.words]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise LeftOut("words")

    def batch(self, rows):
        inputs, pieces = self._encoded(rows)
        labels = np.full_like(inputs["input_ids"], NOT_LEARNED)
        for number, (row, first_pieces) in enumerate(zip(rows, pieces)):
            for word, place in first_pieces.items():
                labels[number, place] = self.numbers[value_of(row[self.tags][word])]
        return inputs | {"labels": labels}

    def encode(self, rows):
        return self._encoded(rows)[0]

    def _encoded(self, rows) -> tuple[dict[str, np.ndarray], list[dict[int, int]]]:
        """(the model's inputs, for each row the place of each word's first piece); words that are cut off have none."""
        texts = [" ".join(row[self.words]) for row in rows]  # as the base was trained: a piece may begin with its blank
        inputs = self.tokenize(
            texts,
            return_offsets_mapping=True,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="np",
        )
        pieces = []
        for number, row in enumerate(rows):
            word_at = np.repeat(np.arange(len(row[self.words])), [len(word) + 1 for word in row[self.words]])
            last, found = None, {}
            for place, (start, end) in enumerate(inputs["offset_mapping"][number].tolist()):
                word = int(word_at[end - 1]) if end > start else last
                if word != last:
                    found[word] = place
                last = word
            pieces.append(found)
        return {name: value for name, value in inputs.items() if name in self.inputs}, pieces

    def answer(self, row):
        return [self.labels[self.numbers[value_of(tag)]] for tag in row[self.tags]]

    def predicted(self, logits, rows):
        """The likeliest class of each word; "" for a word that is cut off."""
        found = []
        for each, row, places in zip(softmax(logits), rows, self._encoded(rows)[1]):
            likeliest, numbers = each.max(-1), each.argmax(-1)
            tags = [self.labels[numbers[places[w]]] if w in places else "" for w in range(len(row[self.words]))]
            found.append(Predicted(tags, min((float(likeliest[place]) for place in places.values()), default=0.0)))
        return found

    def confused(self, answer, prediction):
        return [(tag, said) for tag, said in zip(answer, prediction) if said not in (tag, "")]

    def items(self, labels):
        return int((labels != NOT_LEARNED).sum())

    def measure(self, logits, labels):
        """The predicted class of each position, the summed loss of each text, and the class of each position, −100 where none is
        learned: int64 (batch, positions), float32 (batch,) and int64 (batch, positions)."""
        predicted = np.where(labels == NOT_LEARNED, NOT_LEARNED, logits.argmax(-1))
        return predicted, cross_entropy(logits, labels).sum(1), labels

    def metrics(self, predicted, losses, true):
        words = true != NOT_LEARNED
        found = {
            "loss": float(losses.sum(dtype=np.float64) / max(words.sum(), 1)),
            "accuracy": float(np.mean(predicted[words] == true[words])),
        }
        if self._has_entities():
            named = (
                [[self.labels[tag] for tag in row[row != NOT_LEARNED]] for row in rows] for rows in (predicted, true)
            )
            found |= entity_f1(*named)
        return found


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(class, first word, word after the last) of each entity in a text's tags, as the CoNLL-2000 evaluation reads
    them: an entity begins at B-, and at an I- that does not continue an entity of its class.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"]))
    [('LOC', 3, 4), ('LOC', 4, 5), ('PER', 0, 2), ('PER', 5, 6)]
    """
    found, start, kind = set(), 0, None
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind is not None and not (prefix == "I" and name == kind):
            found.add((kind, start, place))
            kind = None
        if kind is None and prefix in ("B", "I") and name:
            start, kind = place, name
    return found


def entity_f1(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of whole entities over all texts; 0 where there is nothing to count."""
    hits = given = there = 0
    for one, other in zip(predicted, true, strict=True):
        one, other = entities(one), entities(other)
        hits, given, there = hits + len(one & other), given + len(one), there + len(other)
    shares = {"precision": hits / max(given, 1), "recall": hits / max(there, 1)}
    return shares | {"f1": 2 * hits / max(given + there, 1)}
