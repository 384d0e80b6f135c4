"""In which order the gradients of A and B are fastest: backends/torch/adapter/sites/linear.py takes one of two by the rank.

    python -m benchmarks.gradient_orders        five seconds; two threads unless --threads says otherwise

Each line has, of one shape, how long the order for wide ranks takes beside that for narrow ones: gB, and then gᵀ(xAᵀ), as B's gradient stands.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

SHAPES = ((1024, 384), (512, 512), (2048, 768), (256, 1024))  # tokens, features
RANKS = (2, 4, 8, 16, 32, 64, 128)
ROUNDS = 60


def orders(tokens: int, features: int, rank: int) -> dict:
    """The two orders of each product, as calls."""
    x, g = torch.randn(tokens, features), torch.randn(tokens, features)
    A, B = torch.randn(rank, features), torch.randn(features, rank)
    x_A = F.linear(x, A)
    return {
        "gB": (lambda: g @ B, lambda: F.linear(g, B.T.contiguous())),
        "gᵀ(xAᵀ)": (
            lambda: torch.addmm(B, g.T, x_A, beta=0),
            lambda: torch.addmm(B.T, x_A.T, g, beta=0).T.contiguous(),
        ),
    }


def ratio(wide, narrow) -> float:
    """The median of the times of one call beside the other's, which take turns."""
    found = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        wide()
        between = time.perf_counter()
        narrow()
        found.append((between - begin) / (time.perf_counter() - between))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gradient_orders", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    for tokens, features in SHAPES:
        for rank in RANKS:
            shown = (f"{name} {ratio(*each):.2f}" for name, each in orders(tokens, features, rank).items())
            print(f"{tokens} tokens of {features}, rank {rank}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
