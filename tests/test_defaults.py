"""What a run takes where its user names nothing."""

import pytest

transformers = pytest.importorskip("transformers")

from runs import Halt, base, command, gpt2, reviews, small  # noqa: F401  fixtures

from backends.runs.defaults import completed, dim_of, rate_of, with_targets
from backends.settings import AdapterSettings, PlanSettings, TrainSettings
from backends.torch.training import train as module
from backends.torch.training.train import train
from unilora_spec import UniLoraError


def settings_of(**options):
    return TrainSettings(**{"base": "b", "data": "d.csv", "output": "v"} | options)


# D of the authors' models, at rank 4, and what their scripts train them with.
@pytest.mark.parametrize(
    ("task", "D", "parameters", "d", "rate"),
    [
        ("classification", 4 * 24 * 2 * 768, 125_000_000, 23_040, 5e-3),  # RoBERTa base, query and value
        ("classification", 4 * 48 * 2 * 1024, 355_000_000, 23_040, 5e-3),
        ("image-classification", 4 * 24 * 2 * 768, 86_000_000, 72_000, 1e-2),  # ViT base
        ("causal-lm", 4 * 28 * 111_616, 8_500_000_000, 524_288, 2e-3),  # Gemma 7B, all linear maps
        ("causal-lm", 4 * 32 * 81_920, 7_200_000_000, 524_288, 2e-3),  # Mistral 7B
    ],
)
def test_defaults_are_near_what_the_authors_trained_with(task, D, parameters, d, rate):
    """d to 3 % (theirs of ViT is 0.488 of D), rates within their own grids, whose neighbours are half and twice."""
    assert dim_of(task, D) == pytest.approx(d, rel=0.03)
    assert rate / 1.3 < rate_of(task, "balanced", D / d, parameters) < rate * 1.3


def test_what_is_given_stays_and_what_is_taken_is_said():
    assert completed(settings_of(dim=7, lr=0.5), 100, 10) == (settings_of(dim=7, lr=0.5), [])
    done, said = completed(settings_of(), 36_864, 22_700_000)
    assert (done.dim, done.lr) == (5760, 1e-2) and said == ["--dim 5760", "--lr 0.01"]
    done, said = completed(settings_of(kind="identity"), 36_864, 22_700_000)  # LoRA: d is D
    assert (done.dim, done.lr) == (None, 4e-3) and said == ["--lr 0.004"]
    done, said = completed(settings_of(dim=960), 36_864, 22_700_000)
    assert done.lr == 2.5e-2  # √(D / d) more than identity's
    done, _ = completed(settings_of(kind="vera"), 36_864, 22_700_000)
    assert (done.dim, done.lr) == (None, 1e-2)


def test_small_maps_have_a_d_too():
    for task in ("classification", "causal-lm", "seq2seq", "image-classification"):
        assert all(1 <= dim_of(task, D) <= D for D in (1, 2, 7, 15, 16, 17, 100))


def test_a_causal_language_model_is_adapted_in_all_linear_maps():
    assert with_targets(settings_of(task="causal-lm")).targets == ("all-linear",)
    assert with_targets(settings_of(task="causal-lm", targets="q_proj")).targets == ("q_proj",)
    assert with_targets(settings_of()).targets is None
    assert with_targets(PlanSettings(base="b", task="causal-lm")).targets == ("all-linear",)
    assert with_targets(AdapterSettings(base="b")).targets is None


def test_a_run_says_what_it_took(small, gpt2, command, tmp_path):
    status, _, words = command(
        **{
            "base": gpt2,
            "data": small["data"],
            "task": "causal-lm",
            "output": small["output"],
            "max-length": 16,
            "limit": 16,
        }
    )
    assert status == 0 and "by default: --targets all-linear, --dim " in words and "--lr " in words
    small |= {"dim": None, "output": tmp_path / "other.safetensors", "limit": 16}
    report = train(TrainSettings(**small))
    assert report["adapter"] == {"targets": [], "d": 80, "lr": 1e-2}  # D = 2 layers, 2 targets, rank 2, 32 + 32


def test_a_sweep_takes_the_best_rate_and_a_resumed_run_keeps_it(small, tmp_path, monkeypatch, capfd):
    small |= {"sweep": "0,0.05,1e30", "head_lr": 0}
    report = train(TrainSettings(**small), progress=True)
    assert [each["lr"] for each in report["sweep"]] == [0, 0.05, 1e30]
    assert report["sweep"][0]["accuracy"] < report["sweep"][1]["accuracy"] and list(report["sweep"][2]) == ["lr"]
    words = capfd.readouterr().err
    assert "sweep: --lr 0.05 gives accuracy" in words and "sweep: --lr 1e+30 diverges" in words
    assert report["adapter"]["lr"] == 0.05
    plain = {name: value for name, value in small.items() if name != "sweep"} | {
        "output": tmp_path / "plain.safetensors"
    }
    train(TrainSettings(**plain, lr=0.05))
    assert small["output"].read_bytes() == (tmp_path / "plain.safetensors").read_bytes()

    made, halted = module.make_trainer, ["trial", "vec"]

    def make_trainer(*arguments):
        trainer = made(*arguments)
        if halted and arguments[-1].name == f"{halted[0]}.checkpoints":
            halted.pop(0)
            trainer.add_callback(Halt(4))
        return trainer

    monkeypatch.setattr(module, "make_trainer", make_trainer)
    with pytest.raises(KeyboardInterrupt):  # in a trial
        train(TrainSettings(**small, overwrite=True))
    with pytest.raises(module.Stopped):
        train(TrainSettings(**small))
    small["output"].unlink()
    report = train(TrainSettings(**small, resume=True))
    assert "sweep" not in report and report["adapter"]["lr"] == 0.05
    assert small["output"].read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sweep": "1e-3"}, "--sweep is '1e-3'; give two numbers"),
        ({"sweep": "1e-3,x"}, "--sweep is '1e-3,x'; give two numbers"),
        ({"sweep": "1e-3,1", "lr": 1}, "leave --lr out"),
        ({"sweep": "1e-3,1", "holdout": 0}, "--sweep needs held-out data"),
        ({"sweep": "1e-3,1", "head_only": True, "output": None}, "leave --head-only out"),
    ],
)
def test_sweeps_refused(options, expected):
    with pytest.raises(UniLoraError, match=expected):
        settings_of(**options)


def test_the_metric_that_is_to_become_best(small):
    report = train(TrainSettings(**small, metric="matthews", patience=1, epochs=2))
    assert -1 <= report["after"]["matthews"] <= 1
    with pytest.raises(
        UniLoraError, match="--metric is 'bleu'; of classification there are loss, accuracy, macro_f1, matthews"
    ):
        train(TrainSettings(**small, metric="bleu", overwrite=True))
    with pytest.raises(UniLoraError, match="there are none, as no rows are held out"):
        train(TrainSettings(**small, metric="accuracy", holdout=0, overwrite=True))


def test_clipped_gradients_make_smaller_steps(small, tmp_path):
    """Of plain gradient norms far above: AdamW's steps do not know of a factor, so that the moments tell."""
    seen = {}
    for clip in (0, 1e-3):
        made = module.make_trainer

        def make_trainer(*arguments, clip=clip, made=made):
            trainer = made(*arguments)
            seen[clip] = trainer
            return trainer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "make_trainer", make_trainer)
            train(TrainSettings(**small, clip=clip, overwrite=True))
    moments = {
        clip: trainer.optimizer.state[trainer.model.unilora.theta]["exp_avg_sq"].sum() for clip, trainer in seen.items()
    }
    assert (
        moments[1e-3] < 1e-6 < moments[0]
    )  # 9 steps of a squared norm of 1e-6, a thousandth of it each, and half that for θ
