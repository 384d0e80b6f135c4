"""A folder that PEFT wrote."""

from fuzz_mutations import packed

from .door import DEEP, LONG, Door, Seed, pipe, text
from .small_base import BASE

PEFT = {
    "peft_type": "UNILORA",
    "r": 2,
    "theta_d_length": 8,
    "proj_seed": 0,
    "target_modules": ["query"],
    "task_type": "SEQ_CLS",
}
PEFT["base_model_name_or_path"] = "base"
PEFT_TENSORS = packed(
    {"base_model.unilora_theta_d": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}, bytes(32)
)


def _peft(says, **values):
    return Seed(text(PEFT | values), says)


PEFT_CONFIGS = {
    **DEEP,
    "a rank of four million": _peft("has a rank of 32 at most", r=2**22),
    "a rank of a hundred digits": _peft("r is 1000", r=10**100),
    "a rank that is a text": _peft("r is '8'", r="8"),
    "a rank that is true": _peft("r is True", r=True),
    "no rank": _peft("r is None", r=None),
    "a seed below zero": _peft("proj_seed is -1", proj_seed=-1),
    "targets that are numbers": _peft("target_modules is [1]", target_modules=[1]),
    "modules that are an object": _peft("modules_to_save is {}", modules_to_save={}),
    "a base that is a list": _peft("base_model_name_or_path is []", base_model_name_or_path=[]),
    "a pattern that explodes": _peft("takes too long", target_modules="(.*)*(.*)*(.*)*(.*)*$x"),
    "layers by such a pattern": _peft(
        "takes too long", layers_to_transform=[0], layers_pattern="(.*)*(.*)*(.*)*(.*)*$x"
    ),
    "no pattern": _peft("no regular expression", target_modules="("),
}

DOORS = [
    Door(
        "PEFT's configuration",
        ("export", "import-peft", "--adapter", "peft", "-o", "out.safetensors"),
        "peft/adapter_config.json",
        BASE | {"peft/adapter_model.safetensors": PEFT_TENSORS},
        {"sound": Seed(text(PEFT), None), **PEFT_CONFIGS, "a pipe": Seed(pipe, "has no adapter_config.json")},
    ),
    Door(
        "PEFT's tensors",
        ("export", "import-peft", "--adapter", "peft", "-o", "out.safetensors"),
        "peft/adapter_model.safetensors",
        BASE | {"peft/adapter_config.json": text(PEFT)},
        {"a header of 70 MB": LONG},
    ),
]
