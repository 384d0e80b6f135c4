"""Gemma 3 270M as a folder of transformers, in float32, of a GGUF file.

python tests/runtimes/gemma.py FILE.gguf FOLDER
"""

import sys
from pathlib import Path

import torch
import transformers


def saved(file: Path, folder: Path):
    """The model with its weights dequantized, which is in ``folder`` then, with its tokenizer."""
    options = {"gguf_file": file.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options).eval()
    if not (folder / "tokenizer.json").is_file():
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(file.parent, **options).save_pretrained(folder)
    return model


if __name__ == "__main__":
    saved(Path(sys.argv[1]), Path(sys.argv[2]))
