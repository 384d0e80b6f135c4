"""Images: training on them, and what comes after."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")
from pictures import as_parquet, base, folder, listed, picture, small  # noqa: F401  fixtures
from runs import one_thread, own_cache  # noqa: F401  fixtures

from backends.settings import EvaluateSettings, PredictSettings, TrainSettings
from backends.torch.training import train as training
from backends.torch.training.train import train
from backends.torch.using.evaluation import evaluate
from backends.torch.using.prediction import predict
from export.__main__ import app, get_command
from export.folders.merge import merge
from unilora_spec import UniLoraError, load_adapter

# Training


def test_a_vit_learns_two_colors(small):
    report = train(TrainSettings(**small))
    assert report["after"]["accuracy"] == 1.0 and report["rows"]["held_out"] > 2
    adapter = load_adapter(small["output"])
    assert adapter.base.architecture == "ViTForImageClassification" and adapter.base.labels == ("red", "teal")
    assert adapter.base.problem_type == "single_label_classification" and len(adapter.saved) == 2


def test_the_same_bytes_in_two_runs_and_through_an_interruption(small, tmp_path, monkeypatch):
    """Interrupted within the second epoch, so that its second half is shown the parts of that epoch."""
    small |= {"epochs": 2, "holdout": 0, "batch_size": 6, "eval_steps": 3}

    def run(name, **options):
        train(TrainSettings(**small | {"output": tmp_path / name} | options))
        return (tmp_path / name).read_bytes()

    whole = run("a.safetensors")
    assert run("b.safetensors") == whole
    assert run("c.safetensors", augment=False) != whole

    class Ended(Exception):
        pass

    def end_at(trainer):
        def training_step(*arguments, **options):
            if trainer.state.global_step == 6:
                raise Ended
            return step(*arguments, **options)

        step, trainer.training_step = trainer.training_step, training_step
        return trainer

    make = training.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(training, "make_trainer", lambda *arguments: end_at(make(*arguments)))
        with pytest.raises(Ended):
            run("d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()
    assert run("d.safetensors", resume=True) == whole


def test_export_and_merge(small, tmp_path):
    """The graph and the merged checkpoint say the same of an image. transformers renames the tensors of a ViT while loading: those of the
    merged files have the names that they have in the base's."""
    small |= {"epochs": 1, "holdout": 0, "train_in_full": ["layers.1.mlp.fc1"]}
    train(TrainSettings(**small))
    before = {"encoder.layer.1.intermediate.dense.weight", "encoder.layer.0.attention.attention.query.weight"}
    assert before <= load_file(small["base"] / "model.safetensors").keys()
    graph = ["onnx", "--adapter", str(small["output"]), "--output", str(tmp_path / "v.onnx")]
    get_command(app).main(graph, standalone_mode=False)
    assert not merge(small["output"], tmp_path / "merged")["warnings"]  # the other tensors are those of the record
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {f"vit.{name}" for name in before} | {"classifier.weight"} <= tensors.keys()
    assert not any(".layers." in name for name in tensors)
    merged, loading = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert merged.config.id2label == {0: "red", 1: "teal"}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "merged", backend="pil")
    pixels = processor([picture("red", 99).resize((32, 32))], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = merged.eval()(pixel_values=pixels).logits.numpy()
    onnxruntime = pytest.importorskip("onnxruntime")
    (logits,) = onnxruntime.InferenceSession(tmp_path / "v.onnx").run(["logits"], {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-4)  # the bound of the command `check`


# After training


def table(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluation_of_images_gives_what_training_measured(small, folder, tmp_path):
    report = train(TrainSettings(**small | {"epochs": 1}))
    held = {"adapter": small["output"], "holdout": 0.3, "batch_size": 5}
    found = evaluate(EvaluateSettings(**held, data=str(folder)))
    assert found["task"] == "image-classification" and found["rows"]["used"] == report["rows"]["held_out"]
    assert found["metrics"] == pytest.approx(report["after"], rel=1e-4)  # batches of other sizes, so rounded otherwise
    again = evaluate(EvaluateSettings(**held, data=str(as_parquet(folder, tmp_path / "a.parquet"))))
    assert again["metrics"] == pytest.approx(found["metrics"], rel=1e-4)


def test_mistakes_name_the_images(small, folder, tmp_path):
    train(TrainSettings(**small))
    wrong = listed(tmp_path / "rows.jsonl", ["0.png", "1.png"], ["teal", "teal"])
    for number, color in enumerate(("red", "teal")):
        picture(color, 90 + number).save(tmp_path / f"{number}.png")
    options = {"adapter": small["output"], "mistakes": tmp_path / "mistakes.jsonl"}
    found = evaluate(EvaluateSettings(**options, data=str(wrong)))
    assert found["mistakes"]["confusion"] == [{"answer": "teal", "prediction": "red", "count": 1}]
    (row,) = table(tmp_path / "mistakes.jsonl")
    assert row["row"] == 1 and row["image"] == str(tmp_path / "0.png") and row["prediction"] == "red"


def test_predictions_of_images(small, folder, tmp_path):
    """Of each source, with all columns in their order: cells of files as they are, of images in a data set by their SHA-256."""
    train(TrainSettings(**small))
    out = tmp_path / "out.jsonl"
    options = {"adapter": small["output"], "output": out, "probabilities": True, "batch_size": 5}
    rows = tmp_path / "rows.csv"
    for number, color in enumerate(("red", "teal", "red")):
        picture(color, 90 + number).save(tmp_path / f"{number}.png")
    rows.write_text("file,note\n0.png,a\n,b\n1.png,c\n2.png,d\n")
    report = predict(PredictSettings(**options, data=str(rows), image="file"))
    assert report["empty"] == {"image": 1} and report["columns"][0] == "prediction"
    assert [row.get("prediction") for row in table(out)] == ["red", None, "teal", "red"]
    assert [(row["file"], row["note"]) for row in table(out)] == [
        ("0.png", "a"),
        ("", "b"),
        ("1.png", "c"),
        ("2.png", "d"),
    ]
    assert list(table(out)[0])[:3] == ["file", "note", "prediction"]
    assert table(out)[0]["probability of red"] > 0.5 > table(out)[0]["probability of teal"]
    predict(PredictSettings(**options, data=str(folder)))
    assert all(row["prediction"] == row["label"] in row["image"] for row in table(out)) and len(table(out)) == 24
    data = as_parquet(folder, tmp_path / "a.parquet")
    predict(PredictSettings(**options, data=str(data)))
    digests = {hashlib.sha256(file.read_bytes()).hexdigest(): file.parent.name for file in folder.rglob("*.png")}
    assert {row["img"]: row["label"] for row in table(out)} == digests
    for data, words in ((rows, "there is no column 'image'; its columns are file, note; give --image"),):
        with pytest.raises(UniLoraError, match=words):
            predict(PredictSettings(**options, data=str(data)))
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(UniLoraError, match="rows.csv: file of row 3 is no image"):
        predict(PredictSettings(**options, data=str(rows), image="file"))
