"""Rows of talks, templates, and models that train on them in a second."""

import json

import pytest
import torch
import transformers as T
from runs import own_cache  # noqa: F401  fixtures
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from backends.tasks.templates import Tokens

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(template=None, bos=False):
    """A token each byte, and "ab" as one."""
    letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    tokens = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, [("a", "b")]))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = T.PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", bos_token="<s>", pad_token="<s>")
    if bos:
        from tokenizers.processors import TemplateProcessing

        made.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.chat_template = template
    return made


def llama(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return T.LlamaForCausalLM(
        T.LlamaConfig(vocab_size=260, **sizes, initializer_range=0.2, max_position_embeddings=512, **options)
    )


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Gives the folder of a base: of ``made``, a model, with a tokenizer of this chat template."""
    kept = {}

    def folder(template=None, make=llama):
        if (template, make) not in kept:
            path = kept[template, make] = tmp_path_factory.mktemp("base")
            make().save_pretrained(path)
            tokenizer(template).save_pretrained(path)
        return kept[template, make]

    return folder


@pytest.fixture
def rows(tmp_path):
    """Writes rows to a .jsonl file."""

    def write(*rows, name="rows.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write


def says(*contents, system=False):
    """Messages in turns: the user's, then the assistant's."""
    roles = (["system"] if system else []) + ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents)]


def row(*lengths, kept=None):
    """Tokens 0, 1, … in runs of these lengths, every second of which is an answer."""
    answers = [bool(run % 2) for run, length in enumerate(lengths) for _ in range(length)]
    return Tokens(list(range(len(answers))), answers, kept)
