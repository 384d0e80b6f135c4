"""``make vllm``, second part: vLLM's server with the resolver of export/serving/vllm.py, asked over HTTP for adapters by their files' names.

Two adapters of one base answer with the tokens that PyTorch chooses; what cannot be served is refused with its sentence, and names that
are nobody's are not found. Then what another adapter costs there.

    python tests/runtimes/vllm_server.py FOLDER [BASE …]    FOLDER/environment is a virtual environment with vLLM and this project; costs
                                                            are those of the bases in these folders, by default of the small one
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import tokenizers
import torch
import transformers
from vllm_lora import TARGETS, compare, small_llama

from backends.torch import attach

MAX_RANK, KEPT = 8, 4
START = 900  # seconds, on cores with ten times the work that they can do
ADAPTERS = {  # options of attach beside rank 4
    "one": {"ranks": {"q_proj": 2, "o_proj": 8}, "alpha": 8, "scaling": "rslora"}, "two": {}, "wide": {"rank": 16}, "square": {"rank": 0},
    "head": {"train_in_full": ["lm_head"]}, "output layer": {"targets": ["q_proj", "lm_head"]}, "other base": {},
}  # fmt: skip
ANSWERS = {  # status, and what the sentence has; of names that are nobody's the server says so
    "wide": (
        400,
        "wide.safetensors: its rank is 16, and the server takes 8 at most; start the server with --max-lora-rank 16",
    ),
    "square": (400, "square.safetensors: model.layers.0.self_attn.q_proj.weight is adapted with rank 0"),
    "head": (400, "head.safetensors: lm_head.weight is trained in full"),
    "other base": (400, "other base.safetensors: the base's weights are not those that the adapter was trained on"),
    "broken": (400, "broken.safetensors: this is no safetensors file"),
    **dict.fromkeys(("nobody", "link", "../outside", "x/../one", "one.safetensors", "a\0b"), (404, "does not exist")),
}


def write_adapters(folder: Path) -> dict:
    """The base, and files in FOLDER/adapters; the models that they are of, by name."""
    files, models = folder / "adapters", {}
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(320)}, "w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder / "base")
    small_llama().save_pretrained(folder / "base")
    for name, options in ADAPTERS.items():
        model = models[name] = small_llama(seed=int(name == "other base"))
        attach(model, **{"rank": 4, "d": 500, "targets": TARGETS} | options)
        torch.nn.init.uniform_(model.unilora.theta, -1, 1)
        model.save_adapter(files / f"{name}.safetensors")
    models["base"] = small_llama()
    (files / "broken.safetensors").write_bytes(b"no adapter")
    (folder / "outside.safetensors").write_bytes((files / "one.safetensors").read_bytes())
    (files / "link.safetensors").symlink_to(folder / "outside.safetensors")
    return models


@contextmanager
def server(folder: Path, base: Path):
    """The address and the process of a server while it runs; its log is FOLDER/server.log. The cache is empty when it begins."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": "unilora",
        "UNILORA_VLLM_ADAPTERS": str(folder / "adapters"),
        "UNILORA_VLLM_CACHE": str(folder / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environment.pop("PYTHONPATH", None)
    call = [
        folder / "environment/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", base, "--served-model-name", "base",
        "--enable-lora", "--max-lora-rank", MAX_RANK, "--max-loras", 2, "--max-cpu-loras", KEPT + 2, "--dtype", "float32", "--enforce-eager",
        "--max-model-len", 128, "--max-num-seqs", 2, "--host", "127.0.0.1", "--port", port,
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, call)), env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            begin = time.monotonic()
            while not _lives(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None and time.monotonic() < begin + START, f"see {log.name}"
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}", process
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it and the engine that it started
            process.wait()


def _lives(address) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def ask(address: str, model: str, prompt: list[int], count=20) -> tuple[int, dict]:
    """The status and the answer to a request for the tokens after ``prompt``."""
    asked = {
        "model": model, "prompt": prompt, "max_tokens": count, "temperature": 0, "logprobs": 1, "ignore_eos": True, "return_token_ids": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def check(folder: Path) -> None:
    """Answers are PyTorch's, or refusals."""
    models = write_adapters(folder)
    prompt = [1, *torch.randint(3, 320, (11,), generator=torch.Generator().manual_seed(0)).tolist()]
    with server(folder, folder / "base") as (address, _), ThreadPoolExecutor(3) as pool:
        # Alone: vLLM 0.32.0 gives a request for the base the last adapter, on a CPU, where others of its batch have one (docs/serving.md).
        asked = {"base": pool.submit(ask, address, "base", prompt)}
        asked["base"].result()
        asked |= {name: pool.submit(ask, address, name, prompt) for name in ("one", "two", "output layer", *ANSWERS)}
    for name, answer in asked.items():
        status, body = answer.result()
        if name in ANSWERS:
            sentence = body["error"]["message"]
            print(f"{name!r}: {status}, {sentence}")
            assert status == ANSWERS[name][0] and ANSWERS[name][1] in sentence, name
        else:
            choice = body["choices"][0]
            off = compare(
                models[name], prompt, {"tokens": choice["token_ids"], "logprobs": choice["logprobs"]["token_logprobs"]}
            )
            print(f"{name!r}: 20 of 20 tokens are PyTorch's choice; log-probabilities off by {off:.2g}")
            assert off < 1e-4  # as in vllm_lora.py


def cost(folder: Path, base: Path) -> None:
    """What another adapter costs, of all linear maps of ``base`` with rank 4 and d = 2,000."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    attach(model, rank=4, d=2000, targets=TARGETS)
    names = [f"cost {n}" for n in range(KEPT + 1)]
    for name in names:
        torch.nn.init.uniform_(model.unilora.theta, -1, 1)
        model.save_adapter(folder / f"adapters/{name}.safetensors")
    del model

    def took(name) -> float:
        begin = time.perf_counter()
        status, body = ask(address, name, [1, 2, 3], 1)
        assert status == 200, body
        return 1000 * (time.perf_counter() - begin)

    with server(folder, base) as (address, process):
        for name in ("base", "base", names[0], names[0]):  # what is made once for all is made
            took(name)
        before, first = memory(process.pid), [took(name) for name in names[1:]]
        grown, again = memory(process.pid) - before, [took(name) for name in names[1:]]
        plain = [took("base") for _ in names]
        written = next((folder / "cache").iterdir())
    size = sum(path.stat().st_size for path in written.iterdir())
    print(
        f"Another adapter of {base.name}: {(folder / f'adapters/{names[0]}.safetensors').stat().st_size:,} bytes, {size:,} as a folder"
    )
    print(
        f"    ms to its first token: {median(first):.0f} when it is new, {median(again):.0f} later, {median(plain):.0f} of the base"
    )
    print(f"    memory of the server: {grown / KEPT / 2**20:.1f} MiB each")


def memory(pid: int) -> int:
    """Bytes of a process and of all that it started, each page of several counted once."""
    pages = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    total = sum(1024 * int(line.split()[1]) for line in pages if line.startswith("Pss:"))
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return total + sum(memory(int(child)) for file in children for child in file.read_text().split())


if __name__ == "__main__":
    place, *bases = (Path(given).resolve() for given in sys.argv[1:])
    check(place)
    for base in bases or [place / "base"]:
        cost(place, base)
