"""A small base, rows for it, and runs of the training."""

import os
import signal
import sys

import datasets
import pytest
import torch
import transformers

from backends.settings import TrainSettings
from backends.torch.__main__ import app
from backends.torch.training.train import train
from unilora_spec import UniLoraError
from unilora_spec.command import run

GOOD, BAD = ("good", "great", "fine"), ("bad", "dull", "poor")

WORDS = ["a", "the", "film", "movie", "plot", "and", "very", "not", "is", *GOOD, *BAD]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Models this small gain nothing from a second thread, and wait for it where the machine is busy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentence(number):
    """A sentence and its label: what it says of the film, after some words that say nothing."""
    words = [WORDS[(number * step) % 8] for step in (3, 5, 7)]
    label = number % 2
    return " ".join([*words, "is", (BAD, GOOD)[label][number // 2 % 3], str(number)]), label


def bert(folder, words, **sizes):
    """A BERT without a head in ``folder``, and its tokenizer of these words, which takes a digit as a piece of its own."""
    torch.manual_seed(0)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *map(str, range(10)), *(f"##{i}" for i in range(10))]
    config = transformers.BertConfig(
        vocab_size=len(names), hidden_size=32, num_attention_heads=2, max_position_embeddings=32, initializer_range=0.2, **sizes
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(vocab={name: number for number, name in enumerate(names)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A BERT of two layers without a head, and its tokenizer."""
    return bert(tmp_path_factory.mktemp("bert"), WORDS, num_hidden_layers=2, intermediate_size=64)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    rows = [f"{text},{label},{'ab'[number // 2 % 2]}" for number, (text, label) in enumerate(map(sentence, range(160)))]
    path.write_text("\n".join(["text,label,source", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A GPT-2 of two layers with its head, and a tokenizer of bytes without a padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end).save_pretrained(
        folder
    )
    config = transformers.GPT2Config(
        vocab_size=len(vocab), n_embd=32, n_layer=2, n_head=2, n_positions=48, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def small(base, reviews, tmp_path):
    """Settings of a run of a second or two."""
    run = {"base": base, "data": reviews, "output": tmp_path / "vec.safetensors"}
    return run | {"rank": 2, "dim": 100, "batch_size": 16, "max_length": 16}


@pytest.fixture
def command(monkeypatch, capfd):
    """The command's exit status, output and errors, for options as they are and as keywords; within this process."""

    def call(*options, **keywords):
        monkeypatch.setattr(sys, "argv", ["backends.torch", "train", *options, *as_options(keywords)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run(app)
        return end.value.code or 0, *capfd.readouterr()

    return call


def as_options(settings):
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def refusal(error_type=UniLoraError, **settings):
    with pytest.raises(error_type) as caught:
        train(TrainSettings(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Halt(transformers.TrainerCallback):
    """A signal at the end of one step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def halt_at(monkeypatch):
    """Makes the next runs end at a step by SIGTERM, or go through for None."""
    from backends.torch.training import train as module

    plain = module.make_trainer

    def set_step(step):
        def trainer(*arguments):
            built = plain(*arguments)
            if step is not None:
                built.add_callback(Halt(step))
            return built

        monkeypatch.setattr(module, "make_trainer", trainer)

    return set_step


def options(small, **more):
    """The settings of ``small`` with others, without those that are None."""
    return {name: value for name, value in (small | more).items() if value is not None}
