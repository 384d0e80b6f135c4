"""What the base is held in while it is trained, and what whoever waits is told."""

import json
import sys
import time

import pytest
import torch
import transformers
from loops import language, questions, theta_of  # noqa: F401  fixtures
from runs import base, command, gpt2, own_cache, refusal, reviews  # noqa: F401  fixtures

import unilora_spec
from backends.runs import waiting
from backends.torch.tasks.language_model import LanguageModel
from backends.torch.training import base as of_base
from backends.torch.training import precision

# What the base is held in


def saved_as(dtype, folder, base):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_base_is_held_as_saved_where_that_is_fast(dtype, language, command, tmp_path, monkeypatch):
    run = language | {"base": saved_as(getattr(torch, dtype), tmp_path / "base", language["base"])}
    for slow, held, said in (
        (set(), dtype, ""),
        ({dtype}, "float32", f"is saved in {dtype}, for which this CPU has no arithmetic"),
    ):
        monkeypatch.setattr(precision, "is_slow", {getattr(torch, name) for name in slow}.__contains__)
        status, output, errors = command("--json", "--overwrite", **run)
        assert status == 0 and said in errors and ("arithmetic" in errors) == bool(slow), errors
        assert json.loads(output)["dtype"] == held
        assert unilora_spec.load_adapter(run["output"]).theta.dtype == "float32"
    status, output, errors = command("--json", "--overwrite", "--dtype", dtype, **run)
    assert (
        status == 0
        and json.loads(output)["dtype"] == dtype
        and f"no arithmetic for {dtype}, and takes many times" in errors
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_each_dtype_learns(dtype, language):
    _, report = theta_of(language | {"dtype": dtype, "epochs": 8, "lr": 0.3})
    assert report["dtype"] == dtype and report["after"]["loss"] < 0.97 * report["before"]["loss"]


def test_a_cpu_is_slow_in_a_dtype_for_which_it_has_no_instructions(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for there, slow in (({}, {"bfloat16", "float16"}), ({"avx512_bf16": True}, {"float16"}), ({"amx_bf16": True}, {"float16"}),
                        ({"bf16": True, "fp16_arith": True}, set()), ({"avx512_fp16": True}, {"bfloat16"})):  # fmt: skip
        monkeypatch.setattr(torch.cpu, "get_capabilities", there.copy)
        assert {name for name in ("float32", "bfloat16", "float16") if precision.is_slow(getattr(torch, name))} == slow
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not precision.is_slow(torch.bfloat16)


def test_the_capabilities_that_are_asked_for_are_names_that_torch_has():
    if torch.cpu.get_capabilities()["architecture"] != "x86_64":
        pytest.skip("its names are others")
    named = {name for names in precision.ARITHMETIC.values() for name in names}
    assert {"avx512_bf16", "amx_bf16", "avx512_fp16", "amx_fp16"} <= named & set(torch.cpu.get_capabilities())


@pytest.mark.parametrize(
    "name, library", [("nf4", "bitsandbytes"), ("int8", "bitsandbytes"), ("torchao-int8", "torchao")]
)
def test_a_library_that_is_missing_is_named(name, library, language, monkeypatch):
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None)
    said = refusal(**language | {"quantize": name})
    assert (
        said
        == f"--quantize {name} needs {library}, which is not installed; pip install {library}, or leave --quantize out"
    )


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq", "bitsandbytes"])
def test_a_base_that_is_saved_quantized_is_refused_by_the_name_of_what_did_it(method, language, tmp_path, monkeypatch):
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: None)
    folder = saved_as(torch.float32, tmp_path / "base", language["base"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": method, "bits": 4}})
    )
    said = refusal(**language | {"base": folder})
    assert str(folder) in said and method in said and "give the base that it was made of" in said
    assert "leave --quantize out" in refusal(**language | {"base": folder, "quantize": "nf4"})


# What whoever waits is told


def test_quick_runs_say_nothing_of_their_steps(language, command, monkeypatch):
    monkeypatch.setattr(waiting, "FIRST", 60)  # however busy the machine is
    status, output, errors = command("--json", **language)
    assert status == 0 and json.loads(output)["steps"] == 2
    assert [line.partition(":")[0] for line in errors.splitlines()] == [
        str(language["base"]),
        "by default",
        "step 2 of 2",
    ]


def test_every_part_of_a_slow_run_is_told_without_a_terminal(language, command, monkeypatch):
    def slow(function):
        def slowly(*arguments, **named):
            time.sleep(0.1)
            return function(*arguments, **named)

        return slowly

    monkeypatch.setattr(waiting, "FIRST", 0.04)
    monkeypatch.setattr(waiting, "EVERY", 0.04)
    monkeypatch.setattr(of_base, "rows_and_task", slow(of_base.rows_and_task))
    monkeypatch.setattr(of_base, "_base_model", slow(of_base._base_model))
    monkeypatch.setattr(LanguageModel, "loss", slow(LanguageModel.loss))
    status, output, errors = command("--json", **language, micro_batch=4, eval_steps=1)
    assert status == 0 and json.loads(output)["steps"] == 2
    told = errors.splitlines()
    places = [
        next(place for place, line in enumerate(told) if line.startswith(start))
        for start in (
            f"reading {language['data']}",
            f"loading {language['base']}",
            "held-out batch 0 of ",
            "held-out batch 1 of ",
            "step 0 of 2",
            "step 1 of 2",
            "step 2 of 2",
        )
    ]
    assert places == sorted(places), told


def test_a_terminal_is_told_at_once(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with waiting.waiting(lambda: "loading [b]x[/b]"):
        pass


def test_nothing_is_told_of_what_is_done_by_another_process(monkeypatch, capfd):
    monkeypatch.setattr(waiting, "FIRST", 0.01)
    monkeypatch.setenv("RANK", "1")
    with waiting.waiting(lambda: "x"):
        time.sleep(0.05)
    assert capfd.readouterr().err == ""
