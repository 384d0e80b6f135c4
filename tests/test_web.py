"""The page without a browser: its optimizer, rows, adapters, and a training."""

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from page import adapter, graph_of
from transformers import get_linear_schedule_with_warmup

from unilora_spec.permutation import Permutation
from unilora_spec.serialization import decode, encode

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="the page's modules need node")

ANSWERS = Path(__file__).parent / "web/answers.mjs"


def ask(call, **values):
    """What the page's modules answer to a call of web/answers.mjs."""
    asked = json.dumps({"call": call, **values})
    done = subprocess.run(["node", str(ANSWERS)], input=asked, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


# The optimizer


@needs_node
@pytest.mark.parametrize(("decay", "most"), [(0.0, 1.0), (0.1, 0.0)])
def test_the_optimizer_is_torchs(decay, most):
    """Fifty steps of AdamW with two rates, clipped gradients and the schedule, beside torch's and transformers'."""
    random = np.random.default_rng(0)
    shapes = {"theta": 40, "classifier.bias": 6}
    start = {name: random.normal(size=size).astype(np.float32) for name, size in shapes.items()}
    gradients = [
        {
            name: (random.normal(size=size) * 10.0 ** random.integers(-4, 1)).astype(np.float32)
            for name, size in shapes.items()
        }
        for _ in range(50)
    ]
    rates = {"theta": 1e-2, "classifier.bias": 2e-3}
    found = ask(
        "adamw",
        parameters={name: value.tolist() for name, value in start.items()},
        gradients=[{name: value.tolist() for name, value in each.items()} for each in gradients],
        rates=rates,
        decay=decay,
        most=most,
        warmup=0.06,
    )
    parameters = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    groups = [{"params": [parameters[name]], "lr": rate} for name, rate in rates.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=decay)
    schedule = get_linear_schedule_with_warmup(optimizer, 3, 50)  # 0.06 of 50 steps
    for given_, answer in zip(gradients, found, strict=True):
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(given_[name].copy())
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), most or torch.inf)
        assert answer["factor"] == pytest.approx(schedule.get_last_lr()[0] / rates["theta"], rel=1e-12)
        assert answer["norm"] == pytest.approx(float(norm), rel=1e-6)  # torch sums squares in float32
        optimizer.step()
        schedule.step()
        for name, parameter in parameters.items():
            # Moments differ by the rounding of the norm and of a fused multiplication, parts in 10^7 of a step, and a step is at most a
            # rate of 0.01; fifty of them, and the rounding of numbers of about 1, are below 2e-6.
            np.testing.assert_allclose(answer["parameters"][name], parameter.detach().numpy(), rtol=0, atol=2e-6)


# Rows


def batches(lengths, size, seed, epoch):
    """The order of rows as docs/web.md says it, by the reference's π."""
    own = (seed + epoch) % 2**64
    order = Permutation(len(lengths), own)(np.arange(len(lengths))).tolist()
    runs = [order[start : start + 50 * size] for start in range(0, len(order), 50 * size)]
    rows = [row for run in runs for row in sorted(run, key=lambda row: -lengths[row])]
    full = len(rows) // size
    numbers = Permutation(full, own)(np.arange(full)).tolist() if full else []
    last = [rows[full * size :]] if full * size < len(rows) else []
    return [rows[k * size : (k + 1) * size] for k in numbers] + last


@needs_node
@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 4), (8, 4), (1003, 4), (1000, 1)])
def test_the_order_of_rows(count, size):
    lengths = np.random.default_rng(count).integers(1, 30, count).tolist()  # many are equal: the order of those is kept
    seed = 2**64 - 2
    found = ask("batches", lengths=lengths, size=size, seed=str(seed), epochs=[0, 1, 5])
    assert found == [batches(lengths, size, seed, epoch) for epoch in (0, 1, 5)]
    assert sorted(row for batch in found[0] for row in batch) == list(range(count))


@needs_node
def test_the_share_of_a_text():
    texts = ["a fine film", "", "naïve 🙂 film", "x" * 5000]
    expected = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64 for text in texts]
    assert ask("shares", texts=texts) == expected


def table_of(rows, columns=("text", "label", "source")):
    return {"name": "rows.csv", "columns": list(columns), "records": [list(row) for row in rows]}


@needs_node
def test_examples_are_those_of_python(tmp_path):
    """The same rows are held out, in the same order, with the same classes, as the torch backend takes them from a file."""
    from backends.settings import DataSettings
    from backends.torch.tasks import rows_and_task

    cells = ["good", " bad", "good ", "NaN", "", "b\u00adad", "fair"]
    rows = [(f"text number {n} é🙂" if n % 9 else "  ", cells[n % len(cells)], "x") for n in range(120)]
    file = tmp_path / "rows.csv"
    file.write_text("text,label,source\n" + "".join(f'"{text}","{label}",{source}\n' for text, label, source in rows))
    found = ask("examples", table=table_of(rows), choice={"holdout": 0.3, "limit": 20})
    data, task = rows_and_task(DataSettings(data=str(file), holdout=0.3, limit=20))
    assert found["names"] == list(task.labels) and found["dropped"] == data.dropped
    for ours, theirs in ((found["train"], data.train), (found["heldOut"], data.held_out)):
        assert [row["text"] for row in ours] == theirs["text"]
        assert [row["label"] for row in ours] == [task.label(cell) for cell in theirs["label"]]
        assert [row["length"] for row in ours] == [len(text) for text in theirs["text"]]


@needs_node
def test_classes_that_are_numbers():
    rows = [(f"text {n}", ["10", "2.0", "2", "-1"][n % 4], "") for n in range(40)]
    found = ask("examples", table=table_of(rows), choice={"holdout": 0})
    assert found["names"] == ["-1", "2", "10"] and [row["label"] for row in found["train"][:4]] == [2, 1, 1, 0]


@needs_node
@pytest.mark.parametrize(
    ("labels", "choice", "known", "words"),
    [
        (["", "nan"], {}, None, "no row can be used: 30 have no label"),
        (["a", "a"], {}, None, 'the one value "a"; give examples of two classes'),
        (["1.5", "2"], {}, None, "numbers that are not whole"),
        (["Yes", "yes"], {}, None, 'has "Yes" and "yes", which look like one class'),
        (["a", "b"], {"label": "stars"}, None, 'no column "stars"; its columns are text, label, source'),
        (["a", "b"], {"where": "source=y"}, None, "no row has source=y"),
        (["a", "b"], {"where": "source"}, None, '"source" is no COLUMN=VALUE'),
        (["a", "b"], {"holdout": 1}, None, "0 are to train on and 30 held out"),
        (["a", "c"], {}, ["a", "b"], 'has the class "c", and the adapter knows a, b'),
    ],
)
def test_examples_that_cannot_be_learned(labels, choice, known, words):
    rows = [(f"text {n}", labels[n % 2], "x") for n in range(30)]
    refused = ask("examples", table=table_of(rows), choice=choice, known=known)["refused"]
    assert words in refused and refused.startswith(("rows.csv: ", "the condition"))


# Adapters


@needs_node
def test_an_adapter_through_the_page():
    """Read and written it is the same bytes, with labels it is what Python writes; θ_D and the initial vector have Python's bits."""
    one = adapter()
    found = ask("adapter", file=text_of(encode(one)), labels=["no", "yes"])
    assert found["parameters"] == {
        "theta": one.theta.tolist(),
        "head.weight": one.saved["head.weight"].ravel().tolist(),
    }
    assert found["written"] == text_of(encode(one))
    assert found["labelled"] == text_of(encode(adapter(labels=("no", "yes"))))
    assert found["expanded"] == one.projection.expand(one.theta, 0, 8).tolist()
    assert found["initial"] == one.projection.initial(0.02).tolist()


# A training, by a model in JavaScript in place of a graph

FILES = {
    "graph": ("step.onnx", graph_of()),
    "adapter": ("step.safetensors", encode(adapter(saved=False))),
    "tokenizer": ("tokenizer.json", b"{}"),
}

# "a" speaks for yes and "b" for no; c and d are noise.
TABLE = "text,label\n" + "".join(
    f"{'ab'[n % 2]}{'cd'[n // 2 % 2]}{'c' * (n % 5)}{'d' * (n % 7)},{('yes', 'no')[n % 2]}\n" for n in range(150)
)

START = ["open"], ["read"], ["choose"]


def bench(*plan, table=TABLE, broken=0, **files):
    named = {role: {"name": name, "bytes": text_of(content)} for role, (name, content) in (FILES | files).items()}
    return ask("bench", files=named, table=table, broken=broken, plan=plan)


@needs_node
def test_a_training_learns():
    found = bench(*START, ["measure"], ["train", {"warmup": 0}], ["measure"], ["predict", ["ac", "bc"]], ["list"])
    assert found["answers"][0] | {"threads": 1} == found["answers"][0]
    before, after = found["answers"][3]["accuracy"], found["answers"][5]["accuracy"]
    assert before < 0.8 and after == 1.0  # the table can be learned without a mistake
    assert [each["label"] for each in found["answers"][6]] == ["yes", "no"]
    losses = found["answers"][7][0]["losses"]
    assert len(losses) == 40 and losses[-1]["loss"] < losses[0]["loss"] / 2
    measured = [(event["step"], event["loss"]) for event in found["events"] if event["event"] == "measured"]
    assert [step for step, _ in measured] == [0, 0, 10, 20, 30, 40, 40]
    assert measured[1] == measured[0]  # the start, though it is measured after the first step


@needs_node
def test_a_training_that_was_stopped_goes_on():
    whole = bench(*START, ["train"], ["theta"])["answers"][-1]
    parts = bench(*START, ["stopAt", 13], ["train"], ["train"], ["theta"])["answers"]
    assert parts[3] == {"step": 13, "stopped": True} and parts[4] == {"step": 40, "stopped": False}
    assert parts[5] == whole  # to the bit


@needs_node
def test_a_loss_that_is_no_number_loses_nothing():
    """The sixth step has a loss that is no number: the adapter stays as the fifth left it, and can be saved."""
    runs = -(
        -bench(*START)["answers"][2]["heldOut"] // 32
    )  # those of the measurement after the first step, of 32 rows each
    found = bench(*START, ["train", {"every": 0, "steps": 40}], ["list"], ["save"], ["theta"], broken=runs + 6)[
        "answers"
    ]
    assert found[3]["refused"].startswith("the loss is NaN in step 6, and the adapter stays as it was before")
    assert found[4][0]["steps"] == 5
    assert decode(base64.b64decode(found[5]["bytes"])).theta.tolist() == found[6]


@needs_node
def test_a_state_goes_on_elsewhere():
    """What is saved after 13 steps goes on to the same bits in another page, and says what the next call has to have."""
    found = bench(*START, ["stopAt", 13], ["train"], ["saveState"], ["train"], ["theta"])["answers"]
    state = base64.b64decode(found[4]["bytes"])
    tensors = safetensors.numpy.load(state)
    assert set(tensors) == {"theta", "exp_avg.theta", "exp_avg_sq.theta"} and all(
        each.dtype == np.float32 for each in tensors.values()
    )
    assert (tensors["exp_avg_sq.theta"] > 0).all() and (tensors["exp_avg.theta"] < 0).any()
    told = json.loads(json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])["__metadata__"]["unilora.state"])
    rows = found[2]["train"]
    assert told["run"] == {"batch_size": 4, "rows": rows, "seed": "3", "steps": 40} and told["step"] == 13
    assert told["adapter"]["base"] == {"contents": "0" * 32} and told["version"] == "1"
    files = {"state": ("step.state.safetensors", state)}
    again = bench(*START, ["openState", "state"], ["train"], ["theta"], **files)["answers"]
    assert again[3] == {"steps": 40, "size": 4, "seed": "3"} and again[5] == found[6]
    other = bench(*START, ["openState", "state"], ["train", {"size": 8}], **files)["answers"][-1]
    assert "goes on from a state of 4 rows a step, and these are 8" in other["refused"]
    of_others = bench(*START, ["openState", "adapter"])["answers"][-1]
    assert "step.safetensors holds no state of a training" in of_others["refused"]


@needs_node
def test_adapters_in_memory():
    """A second adapter is trained by itself, and both are there; each is saved as the file that Python reads."""
    found = bench(
        *START,
        ["train"],
        ["rename", "first"],
        ["fresh"],
        ["theta"],
        ["train", {"steps": 5}],
        ["list"],
        ["select", 1],
        ["save"],
    )["answers"]
    assert found[6] == adapter().theta.tolist()
    assert [(each["name"], each["steps"], each["selected"]) for each in found[8]] == [
        ("first", 40, False),
        ("step anew", 5, True),
    ]
    saved = base64.b64decode(found[10]["bytes"])
    assert found[10]["name"] == "first.safetensors"
    again = bench(*START[:1], ["openAdapter", "saved"], ["theta"], saved=("x.safetensors", saved))["answers"]
    assert [each["name"] for each in again[1]] == ["step", "x"]
    one = decode(saved)
    assert one.base.labels == ("no", "yes") and one.theta.tolist() == again[2]


@needs_node
@pytest.mark.parametrize(
    ("files", "plan", "words"),
    [
        ({"graph": ("g.onnx", b"no graph")}, [], "g.onnx is no ONNX file"),
        ({"graph": ("g.onnx", graph_of()[:-5])}, [], "g.onnx is no ONNX file, or a damaged one"),
        (
            {"graph": ("g.onnx", graph_of({"unilora.mode": "input"}))},
            [],
            "no step graph, but one of mode input; make one by python -m export",
        ),
        ({"graph": ("g.onnx", graph_of({"unilora.task": "regression"}))}, [], "for the task regression"),
        ({"adapter": ("a.safetensors", b"x" * 50)}, [], "a.safetensors is no adapter that can be read"),
        (
            {"adapter": ("a.safetensors", encode(adapter(d=3, saved=False)))},
            [],
            "a.safetensors has d 3, and step.onnx is for 4",
        ),
        (
            {"adapter": ("a.safetensors", encode(adapter(seed=4, saved=False)))},
            [],
            "has seed 4, and step.onnx is for 3",
        ),
        (
            {"adapter": ("a.safetensors", encode(adapter(contents="2" * 32, saved=False)))},
            [],
            "was trained on another base",
        ),
        ({"adapter": ("a.safetensors", encode(adapter()))}, [], "brings head.weight, which step.onnx does not take"),
        ({"tokenizer": ("tokenizer.json", b"{")}, [], "tokenizer.json is no JSON"),
        ({}, [["train"]], "there are no examples; open a .csv file"),
        ({}, [["rename", " "]], "the adapter has no name"),
        ({}, [["remove", 1]], "the last adapter stays"),
        ({}, [["read"], ["choose"], ["train"], ["train"]], "has had 40 steps; give more than that, or start over"),
    ],
)
def test_what_is_refused(files, plan, words):
    answer = bench(["open"], *plan, **files)["answers"][-1]
    assert words in answer["refused"] and "\n" not in answer["refused"]


@needs_node
def test_a_refused_graph_leaves_the_old_one():
    found = bench(
        *START,
        ["train"],
        ["openAdapter", "other"],
        ["list"],
        other=("o.safetensors", encode(adapter(d=3, saved=False))),
    )["answers"]
    assert "o.safetensors has d 3" in found[4]["refused"] and found[5][0]["steps"] == 40
