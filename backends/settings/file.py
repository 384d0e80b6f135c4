"""Reads a YAML file of options."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from unilora_spec import UniLoraError
from unilora_spec.documents import read_bytes

MOST_CONFIG, MOST_NESTING, MOST_EVENTS = 2**16, 4, 4000  # bytes, lists in each other, what is in it


def read_config(path, known: Sequence[str]) -> dict:
    """The options in a YAML file, whose keys are names in ``known``, written with - or _.

    Raises ``UniLoraError`` with the file's name where the file is no YAML, or has an unknown or repeated option.
    """
    import yaml

    text = read_bytes(Path(path), MOST_CONFIG)
    try:
        depth = 0
        for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise UniLoraError(f"{path}: line {line} refers to {event.anchor!r:.80}; write the value itself there")
            if depth > MOST_NESTING or count > MOST_EVENTS:
                raise UniLoraError(
                    f"{path}: an option's value is a text, a number, or a list or pairs of such; write it so"
                )
        content = yaml.load(text, _loader())
    except UniLoraError:
        raise
    except Exception as error:  # noqa: BLE001  YAML's own, and those of Python's types that read what a tag or a form stands for
        raise UniLoraError(f"{path}: this is no YAML: {' '.join(str(error).split()):.300}") from None
    if not isinstance(content, dict):
        raise UniLoraError(f"{path}: a YAML file of options has lines such as 'rank: 4'")
    options = {str(key).replace("-", "_"): value for key, value in content.items()}
    if len(options) < len(content):
        raise UniLoraError(f"{path}: an option is given twice, with - and with _; leave one of them out")
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0) or known
            raise UniLoraError(
                f"{path}: the option {name!r:.80} is unknown; the closest is {close[0].replace('_', '-')!r}"
            )
    return options


def _loader():
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, where YAML's own loader takes the last without a word."""

        def construct_mapping(self, node, deep=False):
            made = super().construct_mapping(node, deep)
            if len(made) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "a key is there twice", node.start_mark)
            return made

    return Loader
