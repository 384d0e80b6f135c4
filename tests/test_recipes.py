"""The authors' experiments under recipes/: each file of options is whole, trains a tiny stand-in of its base on rows of its form, and the
commands in it are ones that there are."""

import json
import shlex
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from runs import (
    base,  # noqa: F401
    gpt2,  # noqa: F401  fixtures
)
from typer.main import get_command

from backends.settings import EvaluateSettings, GenerateSettings, TrainSettings
from backends.settings.file import read_config
from backends.torch.__main__ import app
from backends.torch.training.train import train
from backends.torch.using.evaluation import evaluate
from backends.torch.using.generation import Generator
from unilora_spec import load_adapter

RECIPES = Path(__file__).parents[1] / "recipes"
EVALUATIONS = ("math/gsm8k.yaml", "math/math.yaml")
ALL = [str(path.relative_to(RECIPES)) for path in sorted(RECIPES.rglob("*.yaml"))]
NAMES = [name for name in ALL if name not in EVALUATIONS]
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 640,
}  # fmt: skip


def recipe(name) -> dict:
    return read_config(RECIPES / name, list(TrainSettings.__dataclass_fields__))


@pytest.fixture(scope="session")
def stand_in(base, gpt2, tmp_path_factory):
    """A folder with a tiny random model of a base's own architecture, and a tokenizer."""
    made = {}

    def folder(name):
        kind = next(kind for kind in ("roberta", "gemma", "mistral", "llama", "vit") if kind in name.lower())
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            if kind == "vit":
                config = transformers.ViTConfig(**TINY, image_size=32, patch_size=8)
                transformers.ViTModel(config).save_pretrained(made[kind])
                processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
                (made[kind] / "preprocessor_config.json").write_text(json.dumps(processor))
                return made[kind]
            tokenizer = transformers.AutoTokenizer.from_pretrained(base if kind == "roberta" else gpt2)
            tokenizer.save_pretrained(made[kind])
            config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **TINY, pad_token_id=0)
            auto = transformers.AutoModel if kind == "roberta" else transformers.AutoModelForCausalLM
            auto.from_config(config).save_pretrained(made[kind])
        return made[kind]

    return folder


def rows_for(options, folder) -> Path:
    """Twelve rows with the columns that a recipe reads, and labels of its task."""
    number = range(12)
    columns = [name.strip() for name in options.get("text", "instruction, output").split(",")]
    if options.get("task") == "image-classification":
        from PIL import Image

        for n in number:
            (folder / "train" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 36), (250 * (n % 2), n, 0)).save(folder / "train" / "ab"[n % 2] / f"{n}.png")
        return f"{folder}:train"
    rows = [{column: f"{column} of row {n}, so {n + n}" for column in columns} for n in number]
    if "label" in options:
        for n, row in enumerate(rows):
            row["label"] = n / 3 if options.get("task") == "regression" else n % 2
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole(name):
    """Nothing but --output is missing, and the commands in it name the file itself."""
    path = RECIPES / name
    settings = TrainSettings.from_options({"output": "vec.safetensors"}, path)
    assert settings.rank == 4 and settings.dim and settings.lr and settings.base and settings.data
    assert f"python -m backends.torch train --config recipes/{name} --output" in path.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_a_stand_in(name, stand_in, tmp_path):
    """Two steps, all options as they are but for sizes: base, rows, d, batch, and 4 bits, which want a package of their own."""
    options = recipe(name)
    data = rows_for(options, tmp_path)
    small = {
        "base": stand_in(options["base"]),
        "data": data,
        "dim": 100,
        "max_steps": 2,
        "batch_size": 4,
        "bf16": False,
    }
    small |= {"eval": data} if "eval" in options else {"holdout": 0.4} if options.get("holdout", 0.1) else {}
    small |= {"micro_batch": 2} if "micro_batch" in options else {}
    small |= {"image": "image", "label": "label"} if "image" in options else {}
    report = train(TrainSettings(**options | {"quantize": None} | small, output=tmp_path / "vec.safetensors"))
    adapter = load_adapter(tmp_path / "vec.safetensors")
    assert (
        report["steps"] == 2
        and adapter.projection.d == 100
        and all(segment.rank == 4 for segment in adapter.layer_map.segments)
    )
    assert bool(report["after"]) == ("eval" in small or "holdout" in small)


def commands(path) -> list[list[str]]:
    """The words of each command that a file shows, without what the shell does with its output."""
    lines = [line.lstrip("# ") for line in path.read_text().splitlines()]
    return [shlex.split(line.split(" > ")[0])[3:] for line in lines if line.startswith("python -m backends.torch ")]


@pytest.mark.parametrize("name", [*ALL, "README.md"])
def test_the_commands_in_a_recipe_are_ones_that_there_are(name, monkeypatch):
    """Their options are known, their values too, those of a file of options with them, and what rows of a task need is there."""
    monkeypatch.chdir(RECIPES.parent)
    found = commands(RECIPES / name)
    assert found
    for command, *arguments in found:
        options = get_command(app).commands[command].make_context(command, arguments).params
        config, as_json = options.pop("config"), options.pop("as_json")
        if command == "train":
            TrainSettings.from_options(options, config)
            continue
        settings = {"evaluate": EvaluateSettings, "generate": GenerateSettings}[command].from_options(options, config)
        settings.rows_for("image-classification" if "images/" in name else "causal-lm")
        assert as_json == (command == "generate") and "/" in settings.base  # an id that a file names is never fetched


PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response: Let's think step by step."
)
TESTS = {
    "math/gsm8k.yaml": [
        ({"question": "How many?", "answer": "9 * 2 = <<9*2=18>>18 a day.\n#### 18"}, "So 9. The answer is: $18 of 20.", True),
        ({"question": "How many?", "answer": "#### 1,007"}, "1007. The answer is: no number", False),
    ],
    "math/math.yaml": [
        ({"instruction": "Half?", "output": r"It is $\boxed{\frac{1}{2}}$."}, "The answer is: \\dfrac12.\nMore.", True),
        ({"instruction": "Half?", "output": r"It is $\boxed{x+1}$."}, r"\boxed{x+1}", False),  # not behind the words
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_asks_and_compares_as_the_authors_do(name, stand_in, tmp_path, monkeypatch):
    """On rows of the data's form: first whatever a tiny stand-in answers, then texts in its place; prompts are those of their scripts."""
    options = recipe("math/gemma-7b.yaml")
    small = {"base": stand_in(options["base"]), "data": rows_for(options, tmp_path), "dim": 100, "max_steps": 1}
    small |= {"batch_size": 2, "bf16": False, "card": False, "output": tmp_path / "vec.safetensors"}
    train(TrainSettings(**options | small))
    data = tmp_path / "test.jsonl"
    rows, texts, right = zip(*TESTS[name])
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"adapter": tmp_path / "vec.safetensors", "data": data, "max_new_tokens": 4}
    settings = EvaluateSettings.from_options(given, RECIPES / name)
    found = evaluate(settings)
    assert found["generated"]["exact_match"] == 0 and found["generated"]["too_long"] == 0
    asked = []
    monkeypatch.setattr(Generator, "texts", lambda self, prompts, *_: asked.append((self, prompts)) or list(texts))
    found = evaluate(settings)
    assert found["generated"]["exact_match"] == sum(right) / len(right)
    generator, prompts = asked[0]
    decode = generator.tokenizer.decode
    assert [decode(ids, skip_special_tokens=True) for ids in prompts] == [
        PROMPT.format(next(iter(row.values()))) for row in rows
    ]
    assert generator.stop == ["Instruction", "Response"]
