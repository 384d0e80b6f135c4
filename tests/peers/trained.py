"""What every peer is asked: that the loss fell, that nothing frozen moved, and that what it saved is the adapter."""

import torch
import transformers as T
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from backends.torch import attach, load_adapter
from backends.torch.__main__ import app

WORDS = ["the", "a", "cat", "dog", "sun", "car", "is", "was", "good", "bad", "warm", "cold"]
IDS = torch.arange(2, 14).reshape(2, 6)


def llama():
    """The same base each time, float32."""
    torch.manual_seed(0)
    config = T.LlamaConfig(
        vocab_size=len(WORDS) + 2, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    return T.LlamaForCausalLM(config)


def tokenizer():
    """A word each, of those of WORDS."""
    by_word = {word: number for number, word in enumerate(["<pad>", "<end>", *WORDS])}
    words = Tokenizer(models.WordLevel(by_word, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return T.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<pad>")


def adapted(model, seed=0, targets=("q_proj", "v_proj"), d=100):
    return attach(model, rank=4, d=d, seed=seed, targets=targets)


def frozen(model):
    """Copies of all that must not change: everything but the adapter."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: value.detach().clone() for name, value in tensors.items() if "unilora" not in name}


def assert_frozen(model, before):
    """To the bit."""
    now = frozen(model)
    assert now.keys() == before.keys()
    assert not [name for name in now if not torch.equal(now[name], before[name])]


def assert_fell(losses):
    """By a tenth at least, from the first to the mean of the last three: far more than two batches differ by."""
    assert len(losses) > 3 and sum(losses[-3:]) / 3 < 0.9 * losses[0], losses


def assert_gives_back(checkpoint, model, fresh, run, folder):
    """The command makes a file of what a trainer saved, and that file, and the checkpoint itself where it is a folder, make of a
    ``fresh()`` base what ``model`` is: ``run(model)`` is the same to the bit."""
    file = folder / "of_checkpoint.safetensors"
    call = ["adapter", "--checkpoint", str(checkpoint), "-o", str(file)]
    assert CliRunner().invoke(app, call, catch_exceptions=False).exit_code == 0
    expected = of(model, run)
    for path in [file, checkpoint][: 1 + checkpoint.is_dir()]:
        base = fresh()
        before = of(base, run)
        given = of(load_adapter(base, path), run)
        assert torch.equal(given, expected) and not torch.equal(given, before), path


@torch.no_grad()
def of(model, run):
    model.eval()
    return run(model)


def logits(model):
    return model(IDS).logits
