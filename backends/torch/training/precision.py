"""Chooses the numbers in which a base is held: its dtype, and weights of fewer bits."""

import importlib.util

import torch
from torch import nn

from unilora_spec import UniLoraError

from ...settings import AdapterSettings

# The names of a CPU's capabilities for arithmetic of 16 bits, as ``torch.cpu.get_capabilities`` has them.
ARITHMETIC = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
DEQUANTIZED = "mxfp4"  # transformers itself dequantizes it where it has no kernels for it


def loading(settings: AdapterSettings, config) -> tuple[dict, str | None]:
    """(further arguments of ``from_pretrained`` for the base with this ``config``, a sentence for the user where the
    dtype may surprise, or None).

    ``--dtype auto`` is that of the file, but float32 where this machine's CPU has no arithmetic for it: products would
    be tens of times slower. Raises ``UniLoraError`` where the base is quantized in a way that is not trained on, or a
    library is missing.
    """
    saved = getattr(config, "quantization_config", None)
    if saved is not None:
        _check_saved(settings, saved if isinstance(saved, dict) else saved.to_dict())
    dtype, said = _dtype(settings, config)
    options = {"dtype": dtype}
    if settings.quantize:
        options["quantization_config"] = _quantization(settings.quantize, dtype)
    return options, said


def disable_cpu_packing(model: nn.Module) -> None:
    """Keeps bitsandbytes' layers of four bits from packing their weights for a CPU in an evaluation: a training step
    after that would have no gradient through them, and nothing would say so."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_slow(dtype: torch.dtype) -> bool:
    """Whether this machine has only a CPU, and the CPU has no arithmetic for ``dtype``."""
    if torch.accelerator.is_available() or dtype not in ARITHMETIC:
        return False
    there = torch.cpu.get_capabilities()
    return not any(there.get(name) for name in ARITHMETIC[dtype])


def _dtype(settings, config):
    saved = config.dtype or config.get_text_config().dtype or torch.float32
    dtype = saved if settings.dtype == "auto" else getattr(torch, settings.dtype)
    if not is_slow(dtype):
        return dtype, None
    name = str(dtype).removeprefix("torch.")
    if settings.dtype == "auto":
        return (
            torch.float32,
            f"{settings.base} is saved in {name}, for which this CPU has no arithmetic: it is held in float32",
        )
    return dtype, f"this CPU has no arithmetic for {name}, and takes many times longer than in float32"


def _quantization(name, dtype):
    from transformers import BitsAndBytesConfig, TorchAoConfig

    library = "torchao" if name.startswith("torchao") else "bitsandbytes"
    _check_library(library, f"--quantize {name}", "leave --quantize out")
    if name == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if name == "torchao-int8" else IntxWeightOnlyConfig(torch.int4))


def _check_saved(settings, saved):
    method = str(getattr(saved.get("quant_method"), "value", saved.get("quant_method")))
    if settings.quantize:
        raise UniLoraError(f"{settings.base}: it is saved quantized, by {method:.60}; leave --quantize out")
    if method in ("bitsandbytes", "torchao"):
        _check_library(method, f"{settings.base}, which is quantized by it,", "give the base that it was made of")
    elif method != DEQUANTIZED:
        raise UniLoraError(
            f"{settings.base}: it is saved quantized by {method:.60}, which is not trained on; give the base that it was made of, with "
            "--quantize nf4 for as little memory"
        )


def _check_library(library, who, instead):
    if importlib.util.find_spec(library) is None:
        raise UniLoraError(f"{who} needs {library}, which is not installed; pip install {library}, or {instead}")
