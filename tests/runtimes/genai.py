"""``make genai``: folders that `export onnx --genai` wrote of Gemma 3 270M, in onnxruntime-genai's own loop, beside PyTorch.

genai's model builder makes a folder in float32 and one in int4 of the weights that PyTorch has. In float32 each mode says 64 tokens, all
of them what PyTorch says with the adapter; adapters are switched by ``og.Adapters``. Of int4 it is measured what an export takes.

    python tests/runtimes/genai.py FOLDER [fp32] [int4]    FOLDER is what `make genai` has filled; docs/serving.md has what is printed
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers
from gemma import saved
from llama import BOUND, GEMMA, LINEAR, installed

from backends.torch import attach

COUNT = 64
SWITCH = 5  # ms
SECONDS = 60  # of an export of int4
PEAK = 2.0  # of the bytes of the int4 graph with its data
MODES = ("merged", "reconstruct", "input", "factored")


def gemma(folder: Path):
    """The model in float32, its tokenizer, and the folder of transformers that genai's builder reads."""
    base = folder / "base"
    if not (base / "tokenizer.json").is_file():
        saved(folder / GEMMA, base)
    config = json.loads((base / "config.json").read_text())
    # The builder of 0.18 takes transformers 5, and looks for what transformers 4 called the bases of Gemma's two rotary embeddings.
    rope = config["rope_parameters"]
    rope |= {"rope_type": "default", "rope_theta": rope["full_attention"]["rope_theta"]}
    rope["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    (base / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(base)


def built(folder: Path, precision: str) -> Path:
    """What genai's builder makes of the folder "base"."""
    made = folder / f"built-{precision}"
    if not (made / "tokenizer.json").is_file():
        call = [
            folder / "environment/bin/python",
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            folder / "base",
            "-o",
            made,
        ]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [*call, "-p", precision, "-e", "cpu", "-c", folder / "cache"],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return made


MEASURED = """
import atexit, pathlib, runpy
status = lambda: dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
atexit.register(lambda: print(status()["VmHWM"].split()[0]))
runpy.run_module("export", run_name="__main__")
"""  # its largest resident memory in KiB, mapped files counted in; what the system tells of a child counts its parent in


def exported(folder: Path, base: Path, mode: str, *options: str) -> tuple[Path, float, int]:
    """The folder that `export onnx --genai` writes, how many seconds it took, and its largest resident memory in bytes."""
    output = folder / f"{base.name}-{mode}"
    shutil.rmtree(output, ignore_errors=True)
    call = [sys.executable, "-c", MEASURED, "onnx", "--adapter", folder / "one.safetensors", "--genai", base]
    begin = time.perf_counter()
    done = subprocess.run(
        [*call, "--mode", mode, "-o", output, *options], check=True, stdout=subprocess.PIPE, text=True
    )
    return output, time.perf_counter() - begin, int(done.stdout.split()[-1]) * 1024


def in_genai(folder: Path, model: Path, adapters: dict, order: list, tokens: list[int]) -> dict:
    """What in_genai.py answers."""
    request, answer = folder / "request.json", folder / "answer.json"
    asked = {"model": str(model), "adapters": adapters, "order": order, "tokens": tokens, "count": COUNT}
    request.write_text(json.dumps(asked))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = Path(__file__).with_name("in_genai.py")
    subprocess.run([folder / "environment/bin/python", script, request, answer], check=True, env=environment)
    return json.loads(answer.read_text())


@torch.no_grad()
def said(model, tokens) -> list[int]:
    """What PyTorch says, greedily."""
    ids = torch.tensor([tokens])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=COUNT, do_sample=False)
    return found[0, len(tokens) :].tolist()


def wanted(model, folder: Path, tokens) -> dict:
    """PyTorch's tokens with each of two adapters, of one seed, and without, by name; the adapters are files in ``folder``."""
    attach(model, rank=4, d=2000, targets=LINEAR)
    found = {}
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        torch.nn.init.uniform_(model.unilora.theta, -BOUND, BOUND)
        model.save_adapter(folder / f"{name}.safetensors")
        found[name] = said(model, tokens)
    with torch.no_grad():
        model.unilora.theta.zero_()
    return found | {None: said(model, tokens)}


def written(folder: Path, mode: str) -> dict[str, str]:
    """Files of .onnx_adapter for both adapters."""
    from export.graph.expander import write_adapter
    from unilora_spec import load_adapter

    found = {}
    for name in ("one", "other") if mode in ("input", "factored") else ():
        found[name] = str(folder / f"{name}-{mode}.onnx_adapter")
        write_adapter(load_adapter(folder / f"{name}.safetensors"), mode, Path(found[name]))
    return found


def in_float32(folder: Path, tokens, expected) -> list[str]:
    """Every mode beside PyTorch; the bounds that were missed."""
    missed, base = [], built(folder, "fp32")
    for mode in MODES:
        output, seconds, peak = exported(folder, base, mode)
        adapters = written(folder, mode)
        order = ["one", "other", None, "one"] if adapters else [None]
        answer = in_genai(folder, output, adapters, order, tokens)
        unfed = None if mode == "factored" else "one"  # what a file says by itself: as the base, or as its own adapter
        pairs = list(zip(answer["tokens"], [expected[name or unfed] for name in order], strict=True))
        same = " ".join(str(sum(a == b for a, b in zip(*pair))) for pair in pairs)
        print(
            f"fp32 {mode}: {same} of {COUNT} tokens are PyTorch's; export {seconds:.0f} s, {peak / 1e6:,.0f} MB;",
            end=" ",
        )
        print(f"{' '.join(f'{each:.0f}' for each in answer['step'])} ms a token; genai {answer['genai']}", flush=True)
        if not all(a == b and len(a) == COUNT for a, b in pairs):
            missed.append(f"fp32 {mode}: other tokens than PyTorch's")
        if adapters:
            size = Path(adapters["one"]).stat().st_size
            print(f"    another adapter: {size:,} bytes, loaded in {answer['load']:.1f} ms, switched in", end=" ")
            print(f"{answer['switch']:.3f} ms, {answer['memory'] / 1e6:.1f} MB of memory", flush=True)
            if answer["switch"] > SWITCH:
                missed.append(f"fp32 {mode}: switched in {answer['switch']:.1f} ms")
        shutil.rmtree(output)
    return missed


def in_int4(folder: Path, tokenizer, tokens) -> list[str]:
    """What an export takes, and that the adapter acts; the bounds that were missed."""
    missed, base = [], built(folder, "int4")
    size = sum((base / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    for mode in MODES[1:]:  # what is merged would be rounded away
        for option in ("--no-compare", "--compare"):
            output, seconds, peak = exported(folder, base, mode, option)
            times = peak / size
            print(
                f"int4 {mode} {option}: {seconds:.1f} s, {peak / 1e6:,.0f} MB, {times:.2f} times the graph's {size / 1e6:,.0f}",
                flush=True,
            )
            if seconds > SECONDS:
                missed.append(f"int4 {mode} {option}: {seconds:.0f} s")
            if times > PEAK:
                missed.append(f"int4 {mode} {option}: {times:.2f} times the file")
        adapters = written(folder, mode)
        answer = in_genai(folder, output, adapters, ["one", "other"] if adapters else [None], tokens)
        print(
            f"    {' '.join(f'{each:.0f}' for each in answer['step'])} ms a token: {tokenizer.decode(answer['tokens'][0])!r}",
            flush=True,
        )
        if adapters and answer["tokens"][0] == answer["tokens"][1]:
            missed.append(f"int4 {mode}: two adapters say the same")
    return missed


def main(folder: Path, what: list[str]):
    model, tokenizer = gemma(folder)
    tokens = tokenizer("The history of the city begins")["input_ids"]
    expected = wanted(model, folder, tokens)
    del model
    missed = in_float32(folder, tokens, expected) if not what or "fp32" in what else []
    missed += in_int4(folder, tokenizer, tokens) if not what or "int4" in what else []
    print(", ".join(map(installed, ("onnxruntime", "torch", "transformers"))))
    sys.exit("\n".join(missed) or None)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
