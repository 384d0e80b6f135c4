"""``make llama``: adapters that `export gguf` wrote, run in llama.cpp beside PyTorch with the same adapters.

Two small random models, whose bases are written as GGUF in float32 here, and a real one, Gemma 3 270M: as it is served, quantized to
Q4_K_M, and the same weights in float32. PyTorch has the weights dequantized. Each run takes the tokens that llama.cpp chose, greedily,
and asks PyTorch for its logits there: both would have written the same text where each token is PyTorch's choice as well.

    python tests/runtimes/llama.py FOLDER [small] [gemma]    FOLDER is what `make llama` has filled; docs/serving.md has what is printed
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gemma import saved
from gguf import GGUFReader, GGUFWriter

from backends.torch import attach
from export.folders.gguf import export_gguf

HERE = Path(__file__).parent
GEMMA = "gemma-3-270m-q4_k_m.gguf"
WORDS = 320  # of the small models' vocabulary, with the 256 bytes that llama.cpp looks for
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
COPIES = 7  # of the adapter, each beside the others, to see what one more costs
BOUND = 2.0  # of Gemma's θ, a hundred times what training begins with
LIMITS = {"small": 1e-4, "F32": 1e-3, "Q4_K_M": 0.05}
"""How far logits may be off, as a part of the largest. In float32 a hundred roundings of 2^-24 through a few layers are 1e-5, and a q
whose rows are in another order is off by tenths. Gemma's GELU is a table in float16 there, 2^-11 for each of 18 layers. Of weights
of 4 bits llama.cpp multiplies inputs that it rounds to 8 bits, 2^-8 of the largest of each 256."""


# The bases


def small_llama():
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, max_position_embeddings=128, initializer_range=0.15, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval(), [*LINEAR, "model.embed_tokens", "lm_head"]


def small_qwen3_moe():
    config = transformers.Qwen3MoeConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, max_position_embeddings=128,
        initializer_range=0.15, tie_word_embeddings=False, decoder_sparse_step=1, mlp_only_layers=[],
    )  # fmt: skip
    names = [
        f"model.layers.{i}.mlp.{n}" for i in range(2) for n in ("experts.gate_up_proj", "experts.down_proj", "gate")
    ]
    return transformers.Qwen3MoeForCausalLM(config).eval(), ["q_proj", "o_proj", *names]


def write_base(model, folder: Path) -> Path:
    """A small model as GGUF in float32, apart from what `export gguf` does: were both wrong in one way, the base's logits would tell.
    And as a folder of transformers."""
    config, path = model.config, folder / "base.gguf"
    architecture = {"llama": "llama", "qwen3_moe": "qwen3moe"}[config.model_type]
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(WORDS)
    if architecture == "qwen3moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"w{i}" for i in range(259, WORDS))]
    )
    writer.add_token_scores([0.0] * WORDS)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (WORDS - 259))
    known = gguf.get_tensor_name_map(
        {n: k for k, n in gguf.MODEL_ARCH_NAMES.items()}[architecture], config.num_hidden_layers
    )
    for name, value in model.state_dict().items():
        array = value.numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(heads, 2, len(array) // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
        parts = {name: array}
        if name.endswith("gate_up_proj"):
            half = array.shape[1] // 2
            parts = {name.replace("gate_up", "gate"): array[:, :half], name.replace("gate_up", "up"): array[:, half:]}
        for part, value in parts.items():
            there = known.get_name(part, try_suffixes=(".weight",))
            writer.add_tensor(there if there.endswith(".weight") else f"{there}.weight", np.ascontiguousarray(value))
    write(writer)
    model.save_pretrained(folder / "base", save_original_format=False)  # experts stacked, as they are in the model
    return path


def write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantized(source: Path, path: Path) -> Path:
    """A GGUF file with the same fields and its tensors in float32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, *inner = field.types
            value = int(gguf.LlamaFileType.ALL_F32) if field.name == "general.file_type" else field.contents()
            writer.add_key_value(field.name, value, kind, sub_type=inner[-1] if inner else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    write(writer)
    return path


# The runs


def in_llama(folder: Path, model: Path, adapters, tokens, count, top, exact, copies) -> dict:
    """What llama.mjs answers; ``folder`` has node_modules."""
    script, request, answer = (folder / name for name in ("llama.mjs", "request.json", "answer.json"))
    script.write_bytes((HERE / "llama.mjs").read_bytes())  # packages are looked for beside the script
    asked = {
        "model": str(model), "adapters": adapters, "tokens": tokens, "count": count, "top": top, "exact": exact, "copies": copies,
    }  # fmt: skip
    request.write_text(json.dumps(asked))
    subprocess.run(["node", script.name, request.name, answer.name], cwd=folder, check=True)
    return json.loads(answer.read_text())


@torch.no_grad()
def compared(model, tokens, result) -> dict:
    """PyTorch's logits before each of llama.cpp's tokens, against those."""
    logits = before_each(model, tokens, result)
    there = result["logits"]
    off = max(
        abs(float(row[token]) - value) for row, pairs in zip(logits, there, strict=True) for token, value in pairs
    )
    chosen = logits.gather(1, torch.tensor(result["tokens"])[:, None])[:, 0]
    short = logits.max(-1).values - chosen  # 0 where PyTorch chooses the same
    return {"logits": logits, "same": int((short == 0).sum()), "short": float(short.max()), "off": off}


@torch.no_grad()
def before_each(model, tokens, result) -> torch.Tensor:
    ids = torch.tensor([tokens + result["tokens"][:-1]])
    return model(input_ids=ids).logits[0, len(tokens) - 1 :].float()


def run(kind, title, folder, node, base, model, tokens, count, top) -> list[list[int]]:
    """Without the adapter and with it, both in llama.cpp and in PyTorch; ``model`` is adapted already, with θ as it is to be."""
    model.save_adapter(folder / "vec.safetensors")
    report = export_gguf(folder / "vec.safetensors", folder / "adapter.gguf", folder / "base")
    adapter, served = str(folder / "adapter.gguf"), kind == "Q4_K_M"
    copies = [shutil.copy(adapter, folder / f"copy{n}.gguf") for n in range(COPIES if served else 0)]
    answer = in_llama(node, base, [None, adapter], tokens, count, top, not served, list(map(str, copies)))
    theta, bare = model.unilora.theta, model.unilora.theta.detach().clone()
    without, with_it = answer["results"]
    row = compared(model, tokens, with_it)
    with torch.no_grad():
        theta.zero_()
        moved = float((before_each(model, tokens, with_it) - row["logits"]).abs().max())
        rows = {"base": compared(model, tokens, without), "adapter": row}
        theta.copy_(bare)
    for (what, row), result in zip(rows.items(), answer["results"], strict=True):
        largest = float(row["logits"].abs().max())
        print(
            f"{title}, {what}: {row['same']} of {count} tokens are PyTorch's choice, the others {row['short']:.2g} short of it; logits"
            f" off by {row['off']:.2g} of {largest:.3g}; {result['load']:.0f} ms to make the context,"
            f" {result['step']:.1f} ms a token"
        )
        assert row["off"] < LIMITS[kind] * largest, f"more than {LIMITS[kind]} of the largest"
        assert served or row["same"] == count
    print(f"{title}: the adapter moves logits by {moved:.3g}; {(folder / 'vec.safetensors').stat().st_size:,} bytes,")
    print(
        f"    as GGUF {report['bytes']:,}; llama.cpp {answer['llama']}, {', '.join(map(installed, ('gguf', 'torch', 'transformers')))}"
    )
    if copies:
        plain, one = answer["costs"]
        print(f"    another: {one['ms']:.0f} ms to make its context, {plain['ms']:.0f} without it;", end="")
        print(f" {(one['bytes'] - plain['bytes']) / 2**20:.1f} MiB more than a context without it")
    assert without["tokens"] != with_it["tokens"], "the adapter does not change the text"
    return [without["tokens"], with_it["tokens"]]


def installed(package: str) -> str:
    return f"{package} {version(package)}"


def small(node: Path) -> None:
    for make in (small_llama, small_qwen3_moe):
        torch.manual_seed(0)
        model, targets = make()
        folder = node / make.__name__
        folder.mkdir(exist_ok=True)
        base = write_base(model, folder)
        attach(model, rank=4, d=500, targets=targets, ranks={"q_proj": 2, "o_proj": 8}, alpha=8, scaling="rslora")
        torch.nn.init.uniform_(model.unilora.theta, -2, 2)
        tokens = [1, *torch.randint(3, WORDS, (11,)).tolist()]
        run("small", make.__name__, folder, node, base, model, tokens, 20, WORDS)


def real(node: Path) -> None:
    model = saved(node / GEMMA, node / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(node / "base")
    tokens = tokenizer("The history of the city begins")["input_ids"]
    torch.manual_seed(0)
    attach(model, rank=4, d=2000, targets=LINEAR)
    torch.nn.init.uniform_(model.unilora.theta, -BOUND, BOUND)
    whole = node / "gemma-f32.gguf"
    if not whole.is_file():
        dequantized(node / GEMMA, whole)
    for kind, base in (("F32", whole), ("Q4_K_M", node / GEMMA)):
        for text in run(kind, f"Gemma 3 270M, {kind}", node, node, base, model, tokens, 24, 10):
            print("   ", repr(tokenizer.decode(text)))


if __name__ == "__main__":
    place, *what = Path(sys.argv[1]).resolve(), *sys.argv[2:]
    if not what or "small" in what:
        small(place)
    if not what or "gemma" in what:
        real(place)
