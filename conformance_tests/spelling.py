"""One adapter in the many ways that SPEC 8 lets a file spell it, all of them sound and most not canonical."""

import json

from hypothesis import strategies as st

from .oracle import files

blanks = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n  "])


@st.composite
def json_texts(draw, value):
    """A JSON text of ``value``: blanks, order of keys, escapes and the spelling of a number with a point vary."""
    if isinstance(value, dict):
        items = [
            f"{draw(json_texts(key))}:{draw(json_texts(value[key]))}" for key in draw(st.permutations(list(value)))
        ]
        return "{" + draw(blanks) + f"{draw(blanks)},{draw(blanks)}".join(items) + draw(blanks) + "}"
    if isinstance(value, list):
        return "[" + draw(blanks) + ",".join(draw(json_texts(item)) for item in value) + draw(blanks) + "]"
    if isinstance(value, str):
        escaped = json.dumps(value, ensure_ascii=draw(st.booleans()))
        return escaped.replace("/", draw(st.sampled_from(["/", "\\/", "\\u002F"])))
    if isinstance(value, float):
        return draw(st.sampled_from([repr(value), f"{value:.17g}", f"{value:.16e}", f"{value:.17E}"]))
    return json.dumps(value)


@st.composite
def descriptions(draw, description):
    """The same description: segments folded or one by one, what is the default written out or not."""
    layers = draw(st.sampled_from([files.fold, files.stacks, list]))(description["layers"])
    if draw(st.booleans()):
        layers = [entry if "layers" in entry else {"transposed": False, **entry} for entry in layers]
    alpha = draw(st.sampled_from([float, lambda alpha: alpha]))(description["alpha"])
    return {**description, "layers": layers, "alpha": alpha}


@st.composite
def spelled(draw, description, tensors):
    """A file that holds the adapter: the text of its header, the order of its data and its padding vary."""
    text = draw(json_texts(draw(descriptions(description))))
    header, data = {"__metadata__": files.metadata(text)}, b""
    for name in draw(st.permutations(list(tensors))):
        tensor = tensors[name]
        piece = files.stored(files.numbers(tensor), tensor["dtype"])
        offsets = [len(data), len(data) + len(piece)]
        header[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": offsets}
        data += piece
    return files.container(draw(json_texts(header)) + draw(st.sampled_from(["", " ", "\n", " " * 8])), data)


def canonical(description, tensors) -> bytes:
    """The canonical file of an adapter of ``strategies.adapters``."""
    plain = {name: (tensor["dtype"], tensor["shape"], files.numbers(tensor)) for name, tensor in tensors.items()}
    return files.write(description, plain)


def rounded(tensors):
    """The tensors as a reader finds them: their values rounded to their dtype."""
    return {
        name: tensor
        if tensor["dtype"] == "I32"
        else {**tensor, "values": files.widened(files.stored(files.numbers(tensor), tensor["dtype"]), tensor["dtype"])}
        for name, tensor in tensors.items()
    }
