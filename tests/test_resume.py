"""A training that is stopped goes on to the same bytes, and a full disk costs none."""

import json
import shutil

import numpy as np
import pytest
from runs import base, halt_at, one_thread, own_cache, refusal, reviews, small  # noqa: F401  fixtures
from safetensors.torch import load_file

import unilora_spec
from backends.runs.ending import Stopped
from backends.settings import TrainSettings
from backends.torch.training.checkpoints import Checkpoints
from backends.torch.training.train import train
from unilora_spec import WorkFailed


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"patience": 2, "eval_steps": 4, "lr": 0.5, "epochs": 3},
        {"optimizer": "lora-pro", "noise": 0.1},
        {"optimizer": "lora-rite", "noise": 0.1, "kind": "identity", "dim": None},
    ],
)
def test_stopped_and_resumed_run_gives_the_same_bytes(small, halt_at, extra):
    small |= extra
    train(TrainSettings(**small))
    whole = small["output"].read_bytes()
    small["output"].unlink()
    halt_at(5)
    with pytest.raises(Stopped, match="stopped at step 6 of"):
        train(TrainSettings(**small))
    folder = small["output"].with_suffix(".checkpoints")
    assert not small["output"].exists() and (folder / "checkpoint-6").is_dir()
    assert (folder / "checkpoint-6/model.safetensors").stat().st_size < 4000  # θ, the head and the record
    halt_at(None)
    assert "give --resume to go on or --overwrite" in refusal(**small)
    assert "--lr is 0.1, but the interrupted run had" in refusal(**small | {"lr": 0.1, "resume": True})
    (folder / "checkpoint-7").mkdir()  # one that a crash left half written
    train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole and not folder.exists()


def test_what_is_not_whole_is_passed_over(small, halt_at):
    """A file that is cut, gone, or another run's: the checkpoint before goes on, to the bytes of a run that was never stopped."""
    small |= {"eval_steps": 2}
    train(TrainSettings(**small))
    whole = small["output"].read_bytes()
    small["output"].unlink()
    halt_at(5)
    with pytest.raises(Stopped, match="stopped at step 6 of"):
        train(TrainSettings(**small))
    halt_at(None)
    checkpoints = Checkpoints(TrainSettings(**small, resume=True))
    folder = checkpoints.folder
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4", "checkpoint-6", "settings.json"]
    newest, before = folder / "checkpoint-6", folder / "checkpoint-4"
    assert checkpoints.last() == newest
    record = json.loads((newest / "whole.json").read_text())
    assert (
        set(record["sha256"]) == {path.name for path in newest.iterdir()} - {"whole.json"} and len(record["sha256"]) > 4
    )
    for name in (*record["sha256"], "whole.json"):
        data = (newest / name).read_bytes()
        for damaged in (data[:-1], data[: len(data) // 2], b"", b"\0" * len(data), b"[" * 100_000):
            (newest / name).write_bytes(damaged)
            assert checkpoints.last() == before, name
        (newest / name).unlink()
        assert checkpoints.last() == before, name
        (newest / name).write_bytes(data)
        assert checkpoints.last() == newest
    # Others' checkpoints: of other settings, of another step than the name says, of no number, and no folder.
    shutil.copytree(newest, folder / "checkpoint-8")
    shutil.copytree(newest, folder / "checkpoint-best")
    (folder / "checkpoint-10").write_text("mine")
    assert checkpoints.last() == newest
    (newest / "whole.json").write_text(json.dumps(record | {"settings": record["settings"] | {"lr": 0.5}}))
    assert checkpoints.last() == before
    (folder / "settings.json").write_text('{"lr"')
    train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10", "checkpoint-best"]


def test_the_last_whole_checkpoint_is_never_deleted(small, halt_at, monkeypatch):
    """A disk that is full when the third is written leaves two; one that is full for the first leaves nothing."""
    complete, room = Checkpoints.complete, 2

    def completing(self, *rest):
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(28, "No space left on device")
        complete(self, *rest)

    monkeypatch.setattr(Checkpoints, "complete", completing)
    small |= {"eval_steps": 2}
    (folder := small["output"].with_suffix(".checkpoints")).mkdir()
    (folder / "checkpoint-999").mkdir()  # what another run left half written
    assert "No space left on device; those before it are kept, for --resume" in refusal(WorkFailed, **small)
    assert sorted(path.name for path in folder.glob("c*")) == ["checkpoint-2", "checkpoint-4"]
    room = 0
    assert "No space left" in refusal(WorkFailed, **small, overwrite=True)
    assert not folder.exists() and not small["output"].exists()


def test_a_chain_is_trained_link_by_link_also_when_it_goes_on(small, halt_at):
    """Nine steps a link. It is stopped with link 0, in the middle of link 1, and where nothing but link 2 is left."""
    small |= {"links": 3, "dim": 99, "lr": 0.05, "head_lr": 0.02}
    report = train(TrainSettings(**small))
    assert report["steps"] == 27 and report["after"]["loss"] < report["before"]["loss"]
    adapter = unilora_spec.load_adapter(small["output"])
    assert adapter.projection.kind == "chain" and adapter.projection.links == 3
    assert {segment.rank for segment in adapter.layer_map.segments} == {6} and adapter.layer_map.alpha == 6
    whole, theta = small["output"].read_bytes(), adapter.theta.reshape(3, 33)
    small["output"].unlink()
    folder = small["output"].with_suffix(".checkpoints")
    for step, done in ((9, 1), (14, 1), (18, 2)):
        halt_at(step - 1)
        with pytest.raises(Stopped, match=f"stopped at step {step} of 27"):
            train(TrainSettings(**small, resume=step > 9))
        saved = load_file(folder / f"checkpoint-{step}/model.safetensors")["unilora_theta"].numpy().reshape(3, 33)
        assert np.array_equal(saved[:done], theta[:done]) and not saved[2].any()
        assert saved[1].any() == (step > 9)
    halt_at(None)
    assert "--links is 2, but the interrupted run had 3" in refusal(**small | {"links": 2, "resume": True})
    train(TrainSettings(**small, resume=True))
    assert small["output"].read_bytes() == whole and not folder.exists()
    assert "2 steps for 3 links" in refusal(**small | {"limit": 10, "epochs": 0.5})


def test_optimizer_and_noise_are_those_of_the_call(small):
    def trained(**options):
        train(TrainSettings(**small, **options))
        return small["output"].read_bytes()

    options = {}, {"noise": 0.1}, {"optimizer": "lora-pro"}, {"optimizer": "lora-pro-efficient"}
    assert len({trained(**each) for each in options}) == len(options)


def test_overwrite_starts_anew(small, halt_at):
    halt_at(2)
    with pytest.raises(Stopped):
        train(TrainSettings(**small))
    halt_at(None)
    refusal(**small | {"base": "no-such/model", "overwrite": True})
    assert Checkpoints(TrainSettings(**small, resume=True)).last()  # a wrong call costs nothing
    report = train(TrainSettings(**small, overwrite=True))
    assert report["steps"] == 9


def test_a_full_disk_keeps_the_checkpoints_before(small, monkeypatch):
    from backends.torch.training import trainer as module

    save, written = module.save_file, []

    def full(tensors, path):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(module, "save_file", full)
    small["eval_steps"] = 3
    assert "No space left on device; those before it are kept, for --resume" in refusal(WorkFailed, **small)
    assert [path.name for path in small["output"].with_suffix(".checkpoints").glob("c*")] == ["checkpoint-3"]
    assert not small["output"].exists()


@pytest.mark.parametrize("extra", [{}, {"epochs": 9, "patience": 1, "lr": 0, "head_lr": 0}])
def test_a_full_disk_at_the_end_costs_no_training(small, monkeypatch, extra):
    small |= extra
    train(TrainSettings(**small))
    whole = small["output"].read_bytes()

    def full(path):
        raise WorkFailed(f"{path} could not be written: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("backends.torch.training.train.placing", full)
        assert "No space left on device; the checkpoints are kept, for --resume" in refusal(WorkFailed, **small)
    assert small["output"].read_bytes() == whole
    small["output"].unlink()
    steps = train(TrainSettings(**small, resume=True))["steps"]
    assert small["output"].read_bytes() == whole and steps == (18 if extra else 9)
