"""How random P is: the measurements behind SPEC 3.2 and 4.2. ``python -m benchmarks.randomness`` (about a minute)."""

import numpy as np

from unilora_spec import permutation
from unilora_spec.permutation import Permutation, mix

SIZES = (10_000, 36_864, 262_144)
SEEDS = range(40)
BINS = 64


def avalanche(samples: int = 200_000) -> tuple[float, float]:
    """The root mean square, over all 32 × 32 pairs, of P(output bit flips when an input bit does) − 1/2, and what fair
    coins would show in as many samples."""
    x = np.random.default_rng(0).integers(0, 2**32, samples, dtype=np.uint32)
    base = mix(x, 0x9E3779B9)
    bias = []
    for i in range(32):
        flipped = base ^ mix(x ^ np.uint32(1 << i), 0x9E3779B9)
        bias += [np.mean((flipped >> np.uint32(o)) & np.uint32(1)) - 0.5 for o in range(32)]
    return float(np.sqrt(np.mean(np.square(bias)))), 0.5 / samples**0.5


def differences(rounds: int) -> np.ndarray:
    """Chi-square statistics of (π(i + lag) − π(i)) mod D against uniformity, in standard deviations from their mean, for
    3 sizes, 40 seeds and 5 lags: float64[600]."""
    permutation.ROUNDS = rounds
    results = []
    for D in SIZES:
        for seed in SEEDS:
            pi = Permutation(D, seed)
            values = pi(np.arange(D))
            for lag in (1, 2, pi.a - 1, pi.a, 2 * pi.a):
                moved = (values[lag:] - values[:-lag]) % D
                counts = np.bincount(moved * BINS // D, minlength=BINS)
                # A bin holds ⌊D/64⌋ or ⌈D/64⌉ of the D differences.
                width = np.diff((np.arange(BINS + 1) * D + BINS - 1) // BINS)
                expected = len(moved) * width / D
                chi = ((counts - expected) ** 2 / expected).sum()
                results.append((chi - (BINS - 1)) / (2 * (BINS - 1)) ** 0.5)
    return np.array(results)


def main() -> None:
    measured, coins = avalanche()
    print(f"mix: avalanche bias {measured:.6f} (fair coins in as many samples: {coins:.6f})")
    for rounds in (4, 5, 6):
        sigma = differences(rounds)
        print(
            f"{rounds} rounds: {len(sigma)} tests of differences, mean {sigma.mean():+.3f} σ, "
            f"deviation {sigma.std():.3f}, largest {sigma.max():.1f} σ"
        )


if __name__ == "__main__":
    main()
