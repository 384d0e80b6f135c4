"""Further methods of Hugging Face PEFT 0.21: FourierFT, WaveFT, IA3, RandLoRA and MiSS, with its defaults for all other arguments.

All begin as the base does. For FourierFT that is an option: by default PEFT draws its coefficients at random, as the paper does.
"""

from peft import FourierFTConfig, IA3Config, MissConfig, RandLoraConfig, WaveFTConfig, get_peft_model

from .method import SIDE, TARGETS, WEIGHTS, Method, by_rank, constant

# The largest change of an entry of a weight in a step, at which GPart trains best here with d = 5,760. Of FourierFT, WaveFT and
# GPart alike, ΔW is linear in θ, and θ acts on whole weights.
ENTRY = 8e-3
FOURIER, WAVELET = 150.0, 25.0  # what PEFT multiplies the two transforms by


def _peft(config, *seed: str, **fixed):
    """Puts PEFT's adapter of a configuration on the model; ``seed`` names the argument that takes the seed."""

    def adapt(model, arguments, number, head):
        named = fixed | arguments | dict.fromkeys(seed, number)
        return get_peft_model(model, config(target_modules=list(TARGETS), task_type="SEQ_CLS", **named))

    return adapt


def _frequencies(budget):
    return iter([{"n_frequency": min(max(1, round(budget / WEIGHTS)), SIDE**2)}])


def _count(arguments):
    return WEIGHTS * arguments["n_frequency"]


def _of_fourier(arguments):
    """An entry is the sum of n cosines, which are √½ in the mean, over the number of entries."""
    return ENTRY * SIDE**2 / (FOURIER * (arguments["n_frequency"] / 2) ** 0.5)


def _of_waves(arguments):
    """Haar's transform is orthonormal, so that n numbers of one size are √n of it, spread over all entries."""
    return ENTRY * SIDE / (WAVELET * arguments["n_frequency"] ** 0.5)


def _randlora_size(arguments):
    """Λ of r numbers and Γ of a row for each of as many bases as make full rank."""
    bases = -(-SIDE // arguments["r"])
    return WEIGHTS * bases * (arguments["r"] + SIDE)


def _by_r(budget):
    return ({"r": arguments["rank"]} for arguments in by_rank(budget))


PEERS = (
    Method(
        "PEFT FourierFT",
        "ΔW of a few frequencies",
        _frequencies,
        _count,
        {"n_frequency": 1000},
        _of_fourier,
        _peft(FourierFTConfig, "random_loc_seed", scaling=FOURIER, init_weights=True),
    ),
    Method(
        "PEFT WaveFT",
        "ΔW of a few wavelets",
        _frequencies,
        _count,
        {"n_frequency": 2592},
        _of_waves,
        _peft(WaveFTConfig, "random_loc_seed", scaling=WAVELET),
    ),
    # Ten times what PEFT's own benchmark trains IA3 of the attention's weights with, as of LoRA and VeRA.
    Method(
        "PEFT IA3",
        "each output times a number",
        lambda budget: iter([{}]),
        lambda _: WEIGHTS * SIDE,
        {},
        constant(5e-2),
        _peft(IA3Config, feedforward_modules=[]),
    ),
    # LoRA's, as of MiSS: PEFT's own benchmark trains all three at 1e-4.
    Method(
        "PEFT RandLoRA",
        "sums of random bases",
        _by_r,
        _randlora_size,
        {"r": 32},
        constant(5e-3),
        _peft(RandLoraConfig, "projection_prng_key"),
    ),
    Method(
        "PEFT MiSS",
        "LoRA with sums in place of A",
        _by_r,
        lambda arguments: WEIGHTS * SIDE * arguments["r"],
        {"r": 64},
        constant(5e-3),
        _peft(MissConfig),
    ),
)
