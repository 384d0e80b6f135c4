"""The page in a browser without a window: it trains MiniLM, and Python reads what it saves. ``make web-test`` sets up what this needs."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from transformers import AutoTokenizer

import unilora_spec
from unilora_spec.serialization import decode

WEB = Path(__file__).parents[2] / "build/web"
EXAMPLE = WEB / "minilm"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LACKING = [
    what
    for what, there in {
        "node": shutil.which("node"),
        "Chromium": BROWSER,
        "npm's packages": (WEB / "node_modules/playwright-core").is_dir(),
        "the example's graph": (EXAMPLE / "step.onnx").is_file(),
    }.items()
    if not there
]
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"the page needs {', '.join(LACKING)}: make web-test"),
    pytest.mark.timeout(1500),  # a busy machine
]

STEPS, SIZE, HELD_OUT, SHARE, TOKENS = 75, 32, 300, 0.1, 32
FIELDS = {
    "steps": STEPS,
    "size": SIZE,
    "limit": STEPS * SIZE,
    "measure-most": HELD_OUT,
    "holdout": SHARE,
    "most": TOKENS,
    "every": 25,
    "rate": 0.02,
    "head-rate": 0.005,
}


@pytest.fixture(scope="module")
def drive():
    """Runs a scenario of drive.mjs on the page, served by the command."""
    call = [
        sys.executable,
        "-m",
        "backends.web",
        "--graph",
        EXAMPLE / "step.onnx",
        "--base",
        EXAMPLE / "all-MiniLM-L6-v2",
    ]
    server = subprocess.Popen([*call, "--data", EXAMPLE / "reviews.csv"], stdout=subprocess.PIPE, text=True)

    def run(scenario, **values):
        asked = {"scenario": scenario, "url": address, "browser": BROWSER, "packages": str(WEB), **values}
        program = str(Path(__file__).parent / "drive.mjs")
        done = subprocess.run(["node", program, json.dumps(asked)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    try:
        address = server.stdout.readline().strip()
        yield run
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def trained(drive):
    picture = WEB / "page.png"  # of which docs/page.png is a copy
    found = drive("training", fields=FIELDS, picture=str(picture))
    Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)
    shown = {name: value for name, value in found.items() if name not in ("file", "state")}
    print(json.dumps(shown, indent=1))
    return found


def test_it_learns(trained):
    assert trained["errors"] == [] and trained["elsewhere"] == []  # nothing is asked of another server
    assert trained["before"] < 0.6  # two classes of one size, and a head that knows nothing
    assert trained["after"] >= 0.72
    assert [label for label, _ in trained["says"]] == ["positive", "negative"]
    assert f"accuracy {trained['after']:.3f} after {STEPS} steps" in trained["curve"]


def test_the_page_stays_alive(trained):
    """It draws while the worker computes: of 120 frames in two seconds, a few at least on a busy machine."""
    assert trained["frames"] >= 5


def test_it_stops_and_goes_on(trained):
    """After the step that was being taken when the button was pressed, or, where the press came late, a few more."""
    steps = int(re.search(r"Stopped after (\d+) steps", trained["stopped"])[1])
    assert 10 <= steps < 15


def test_adapters_switch(trained):
    assert trained["saysAnew"] != trained["says"] and trained["saysAgain"] == trained["says"]


def held_out() -> tuple[list[str], np.ndarray]:
    """The rows that the page measures on: those of the smallest shares below SHARE, at most HELD_OUT."""
    import csv

    with (EXAMPLE / "reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    shares = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64 for text, _ in rows]
    chosen = [row for share, row in sorted(zip(shares, rows), key=lambda each: each[0]) if share < SHARE][:HELD_OUT]
    return [text for text, _ in chosen], np.array([label == "positive" for _, label in chosen], np.int64)


def test_python_reads_the_file(trained):
    """The same accuracy in Python's ONNX Runtime on the same rows, and a record that names the classes."""
    content = base64.b64decode(trained["file"]["bytes"])
    adapter, start = decode(content), unilora_spec.load_adapter(EXAMPLE / "step.safetensors")
    assert trained["file"]["name"] == "reviews.safetensors"
    assert adapter.base.labels == ("negative", "positive") and adapter.projection == start.projection
    assert not np.array_equal(adapter.theta, start.theta)
    session = onnxruntime.InferenceSession(EXAMPLE / "step.onnx")
    tokenizer, names = (
        AutoTokenizer.from_pretrained(EXAMPLE / "all-MiniLM-L6-v2"),
        [each.name for each in session.get_inputs()],
    )
    texts, labels = held_out()
    assert len(texts) == HELD_OUT
    right = 0
    for begin in range(0, len(texts), 50):
        part = slice(begin, begin + 50)
        tokens = tokenizer(texts[part], padding=True, truncation=True, max_length=TOKENS, return_tensors="np")
        feeds = {name: value for name, value in tokens.items() if name in names} | {
            "labels": labels[part],
            "theta": adapter.theta,
        }
        (logits,) = session.run(["logits"], feeds | dict(adapter.saved))
        right += int((logits.argmax(1) == labels[part]).sum())
    # WebAssembly adds up in another order, so a text whose classes are equally likely may fall on the other side.
    assert right / len(texts) == pytest.approx(trained["after"], abs=0.01)


def test_webgpu_gives_the_same(drive):
    """By a GPU in software, which every Chromium has: four steps of two short rows."""
    flags = [
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--use-vulkan=swiftshader",
        "--enable-features=Vulkan",
    ]
    fields = {"limit": 8, "holdout": 0, "steps": 4, "size": 2, "most": 8, "every": 0, "warmup": 0}
    found = drive("devices", fields=fields, flags=flags)
    assert "on WebGPU:" in found["webgpuTold"] and "on WebAssembly" in found["wasmTold"] and found["errors"] == []
    start = unilora_spec.load_adapter(EXAMPLE / "step.safetensors").theta
    by_wasm, by_gpu = (decode(base64.b64decode(found[device]["bytes"])).theta for device in ("wasm", "webgpu"))
    moved, apart = abs(by_wasm - start), abs(by_wasm - by_gpu)
    # A step of Adam's is near the rate, 0.01, for every number, and where a gradient is near 0 its rounding decides how far: 1e-5 was seen.
    assert moved.mean() > 0.01 and apart.max() < 1e-3 and apart.mean() < 1e-5


def test_the_state_is_of_the_step_where_it_stopped(trained):
    content = base64.b64decode(trained["state"]["bytes"])
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    told = json.loads(head["__metadata__"]["unilora.state"])
    assert f"Stopped after {told['step']} steps" in trained["stopped"]
    assert told["run"] == {"batch_size": SIZE, "rows": STEPS * SIZE, "seed": "0", "steps": STEPS}


def test_what_is_refused_loses_nothing(drive, tmp_path):
    adapter = unilora_spec.load_adapter(EXAMPLE / "step.safetensors")
    other = unilora_spec.Adapter(
        unilora_spec.Projection(D=adapter.projection.D, d=100, seed=0),
        adapter.layer_map,
        adapter.theta[:100],
        adapter.base,
        adapter.saved,
    )
    files = {name: str(tmp_path / name) for name in ("table", "merged", "other")}
    files |= {
        "table": str(tmp_path / "rows.csv"),
        "merged": str(tmp_path / "merged.onnx"),
        "other": str(tmp_path / "other.safetensors"),
    }
    Path(files["table"]).write_text("text,label\na,\nb,nan\n")
    Path(files["merged"]).write_bytes(plain_graph())
    unilora_spec.save_adapter(other, files["other"])
    found = drive("refusals", files=files | {"adapter": str(EXAMPLE / "step.safetensors")})
    assert found["errors"] == []
    assert found["noGraph"].startswith("there is no step graph; choose a file step.onnx")
    assert found["notStep"].startswith("merged.onnx is no step graph, but one of mode merged; make one")
    assert found["otherAdapter"].startswith("other.safetensors has d 100, and step.onnx is for 5760")
    assert found["noLabels"].startswith("rows.csv: no row can be used: 2 have no label")
    assert found["otherClasses"].startswith(
        'what is typed: the column label has the class "bad", and the adapter knows negative, positive'
    )
    assert found["after"] == found["before"] and found["adapters"] == 1
    assert "trains with one thread" in found["notice"] and "make web" in found["notice"]
    assert "1 thread:" in found["oneThread"]


def plain_graph() -> bytes:
    import onnx

    model = onnx.helper.make_model(onnx.helper.make_graph([], "merged", [], []))
    onnx.helper.set_model_props(model, {"unilora.mode": "merged"})
    return model.SerializeToString()


TOKENS_OF = """
import { readFileSync } from 'node:fs';
const [library, tokens, folder, most] = process.argv.slice(2);
const { Tokenizer } = await import(library);
const { Tokens } = await import(tokens);
const [model, configuration] = ['tokenizer.json', 'tokenizer_config.json'].map((name) => JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')));
const own = new Tokens(Tokenizer, model, configuration);
const texts = JSON.parse(readFileSync(0, 'utf8'));
const batch = own.batch(texts, ['input_ids', 'attention_mask', 'token_type_ids'], Number(most));
console.log(JSON.stringify(Object.fromEntries(Object.entries(batch).map(([name, { data }]) => [name, [...data].map(Number)]))));
"""


@pytest.mark.parametrize("most", [128, 9])
def test_tokens_are_transformers(most, tmp_path):
    """Whole texts and texts that are cut, with what tokenizers stumble over."""
    texts = held_out()[0] + [
        "",
        "naïve café 🙂",
        "不可能 — “quotes”",
        "tab\tand\u00a0blank",
        "x" * 300,
        "[MASK] [SEP] a",
    ]
    program = tmp_path / "tokens.mjs"
    program.write_text(TOKENS_OF)
    library = WEB / "node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs"
    page = Path(unilora_spec.__file__).parents[1] / "backends/web/page/tokens.mjs"
    call = ["node", program, library, page, EXAMPLE / "all-MiniLM-L6-v2", str(most)]
    done = subprocess.run(call, input=json.dumps(texts), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    tokenizer = AutoTokenizer.from_pretrained(EXAMPLE / "all-MiniLM-L6-v2")
    expected = tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="np")
    for name, values in json.loads(done.stdout).items():
        np.testing.assert_array_equal(np.array(values), expected[name].ravel(), err_msg=name)
