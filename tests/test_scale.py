"""Two processes train as one does: the command, DistributedDataParallel, FSDP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import (  # noqa: F401 (fixtures)
    as_options,
    base,
    gpt2,
    reviews,
    sentence,
)
from scale_worker import network
from warmed import warmed

import unilora_spec
from backends.runs.processes import launcher, run_as_one
from backends.settings import TrainSettings
from backends.torch.training.train import train

HERE = Path(__file__).parent
IMPORTS = """
import torch.distributed.fsdp, transformers
import backends.torch.adapter.attach, backends.torch.training.train, backends.torch.training.trainer
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torchrun(*call):
    """A running torchrun of two processes with one thread each."""
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*launcher, *map(str, call)], env=environment, **pipes)


def pair(script, *arguments):
    """Two processes that run a script with the variables that torchrun gives to its own, which are copies of one that has imported torch:
    three interpreters that do so take longer than all that is trained here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    program = warmed(IMPORTS, HF_HUB_OFFLINE="1")
    code = "import sys; from runpy import run_path; run_path(sys.argv.pop(1), run_name='__main__')"
    given = [os.environ | common | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return [program.start(code, script, *arguments, env=environment) for environment in given]


@pytest.fixture(scope="module")
def both(runs):
    """The folder of scale_worker.py's two processes, and what each of its parts gives in either."""
    folder, settings = runs
    outputs = {"resumed": "stopped"}
    settings = {
        name: given | {"output": str(folder / f"{outputs.get(name, name)}.safetensors")}
        for name, given in settings.items()
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for process in pair(HERE / "scale_worker.py", folder):
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-3000:]
    first, second = (torch.load(folder / f"results-{rank}.pt") for rank in (0, 1))
    return folder, {part: (first[part], second[part]) for part in first}


def assert_trained_as_one(theta, results, relative=1e-4):
    """Sums in another order: float32's 2⁻²⁴ for each of some hundred additions, 1e-5 of a gradient's largest entry, carried
    through four steps in which later gradients depend on what came before."""
    change = (results["one"] - results["start"]).abs().max()
    assert change > 0.05
    assert (theta - results["one"]).abs().max() <= relative * change


@pytest.mark.parametrize("way", ["plain", "accumulated", "static graph", "checkpointed"])
def test_ddp_gives_the_theta_of_one_process_and_sends_d_floats_and_the_head(both, way):
    first, second = both[1]["ddp"]
    assert torch.equal(first[way], second[way])
    assert_trained_as_one(first[way], first)
    assert first[f"{way}, floats"] == [60 + 2 * 32 + 2] * 4  # one reduction a step, of θ and the head and nothing else


@pytest.mark.parametrize("way, relative", [("plain", 1e-4), ("checkpointed", 1e-4), ("bfloat16", 0.2)])
def test_fsdp_gives_the_theta_of_one_process(both, way, relative):
    """In bfloat16 a rounding is 2⁻⁹ of a value, and a layer is some ten of them deep: 2e-2, through four steps."""
    first, second = both[1]["fsdp"]
    assert torch.equal(first[way], second[way])
    assert_trained_as_one(first[way], first, relative)
    assert first["shard"] == 32 * 64 // 2, "each process holds half of the base"
    assert first["state"] == ["classifier.bias", "classifier.weight", "unilora_record", "unilora_theta"]


def test_an_evaluation_between_two_steps_of_fsdp_sees_the_theta_of_now(both):
    """FSDP fills θ in place without a trace in its version: what is kept by version alone would be stale."""
    first, _ = both[1]["fsdp"]
    by_two, by_one = first["evaluated"], first["evaluated by one"]
    assert (by_two[0] - by_two[2]).abs().max() > 1e-2
    for logits, expected in zip(
        by_two, by_one
    ):  # every process has seen all rows: the same sums but for the gradient's mean
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_every_process_of_fsdp_can_give_the_whole_adapter(both):
    folder, parts = both
    first, _ = parts["fsdp"]
    file = folder / "fsdp-0.safetensors"
    assert file.read_bytes() == (folder / "fsdp-1.safetensors").read_bytes()
    adapter = unilora_spec.load_adapter(file)
    assert adapter.theta.tolist() == first["plain"].tolist()
    assert adapter.base.contents == network().unilora.adapter().base.contents


# The command


@pytest.fixture(scope="module")
def runs(base, gpt2, reviews, tmp_path_factory):
    """The settings of some runs whose last batches are ragged, one of them of a single row for two processes."""
    folder = tmp_path_factory.mktemp("runs")
    for model, options in (
        (base, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
        (gpt2, {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    ):  # each process draws dropout of its own
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | options))
    texts = [" ".join(sentence(n)[0].split()[n % 5 :]) for n in range(61)]
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    scores = "".join(f"{sentence(n)[0]},{n % 7}\n" for n in range(61))
    (folder / "scores.csv").write_text("text,label\n" + scores)
    common = {"rank": 2, "dim": 100, "batch_size": 16, "max_length": 16}
    texts = common | {"base": str(base), "data": str(reviews)}
    return folder, {
        "classification": texts | {"limit": 49},
        "regression": texts | {"data": str(folder / "scores.csv"), "task": "regression", "limit": 45},
        "causal-lm": common
        | {
            "base": str(gpt2),
            "data": str(folder / "lines.jsonl"),
            "task": "causal-lm",
            "targets": "c_attn",
            "micro_batch": 3,
        },
        "stopped": texts,
        "resumed": texts | {"resume": True},
    }


@pytest.mark.parametrize("name", ["classification", "regression", "causal-lm", "resumed"])
def test_the_command_trains_and_reports_in_two_processes_as_in_one(runs, both, name, tmp_path):
    """AdamW divides a gradient by its size, so an entry's rounding error, at most some 1e-9 beside entries of 1e-6 and
    more here, is 1e-3 of its step of 1e-2: 1e-5 each, and ten of them. A batch that counts a row twice moves θ by 1e-3."""
    first, second = (results[name] for results in both[1]["trains"])
    assert all(torch.equal(first["state"][key], second["state"][key]) for key in first["state"])
    settings = {key: value for key, value in runs[1][name].items() if key not in ("resume", "micro_batch")}
    one = train(TrainSettings(**settings, output=tmp_path / "one.safetensors"))
    for key in ("rows", "parameters", "steps"):
        assert first[key] == second[key] == one[key]
    for when in ("before", "after"):
        assert first[when] == second[when] and set(first[when]) == set(one[when])
        for metric, value in one[when].items():
            assert first[when][metric] == pytest.approx(value, rel=1e-4)
    adapter = unilora_spec.load_adapter(tmp_path / "one.safetensors")
    assert abs(first["state"]["unilora_theta"].numpy() - adapter.theta).max() < 1e-4
    written = unilora_spec.load_adapter(first["output"])
    assert written.theta.tolist() == first["state"]["unilora_theta"].tolist()
    assert {key: value.tolist() for key, value in written.saved.items()} == {
        key: value.tolist() for key, value in first["state"].items() if not key.startswith("unilora_")
    }


def test_a_signal_to_one_process_stops_both_after_the_same_step(both):
    folder, parts = both
    first, second = parts["trains"]
    assert first["stopped"] == second["stopped"]
    assert first["stopped"].startswith("stopped at step 4 of 9; its checkpoint is in")
    assert not list(folder.glob("*.checkpoints")), "the resumed run has ended, and its file stands"


@pytest.mark.thorough  # its short form: test_a_stop_is_told_by_the_first_process
def test_a_wrong_call_is_told_once(runs, tmp_path):
    """One that is refused before anything is read, as what is told and by whom is the same for all that are wrong."""
    settings = runs[1]["classification"] | {"rank": "two", "output": tmp_path / "vec.safetensors"}
    output, errors = torchrun("-m", "backends.torch", "train", *as_options(settings)).communicate(timeout=100)
    assert errors.count("error: ") == errors.count("--rank is 'two'") == 1
    assert "exitcode  : 2" in errors and output == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rank", "status", "told"),
    [("0", 1, "error: stopped; nothing was written\n"), ("1", 1, "")],
    ids=["first", "second"],
)
def test_a_stop_is_told_by_the_first_process(monkeypatch, capsys, rank, status, told):
    """As each process of torchrun ends, with the call that goes on; what it is in two processes is below."""

    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as end:
        run_as_one(stopped)
    assert (end.value.code, capsys.readouterr().err) == (status, told)
    assert launcher() == "torchrun --nproc_per_node 2"


@pytest.mark.thorough
def test_ctrl_c_of_torchrun_is_told_once_with_the_call_that_goes_on(runs, tmp_path):
    settings = runs[1]["classification"] | {"epochs": 400, "eval_steps": 4, "output": tmp_path / "vec.safetensors"}
    process = torchrun("-m", "backends.torch", "train", *as_options(settings))
    while not list(tmp_path.glob("*/checkpoint-*/trainer_state.json")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=100)
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and output == ""
    assert "; to go on: torchrun --nproc_per_node 2 -m backends.torch train --rank 2" in told[0]
    assert not (tmp_path / "vec.safetensors").exists()
