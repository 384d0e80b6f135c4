"""The refusal where a weight is not found: why no name identifies it, which initializers could be it, and how to name the right one."""

from unilora_spec import BaseMismatch

from .fitting import File, Weight


def not_found(file: File, wanted, found, doubts, why=None) -> BaseMismatch:
    reasons = [doubts.get(wanted.name, "none has its name, and none is used by a node or beside a bias of its module")]
    reasons += [why] if why else []
    taken = {each.value for matches in found.values() for each in matches}
    fitting = [each.value for each in file.constants if each.value not in taken and wanted.fits(each)]
    reasons.append(f"of its shape are {listed(fitting)}" if fitting else "none that is free has its shape")
    at, instead = "", ""
    if file.fused and isinstance(wanted, Weight) and any(wanted.stacked(each) for each in file.constants):
        stack = file.fused.inputs[1].name
        reasons.append(f"q, k and v of a layer are one matrix in this file, such as {stack}")
        at, instead = "@ROW", ", or give a file without that fusion"
    return BaseMismatch(
        f"no initializer of the file is known to be {wanted}: {'; '.join(reasons)}; say which by"
        f" --map {wanted.name}=INITIALIZER{at}{instead}",
        "10.3",
    )


def listed(initializers) -> str:
    shown = ", ".join(each.name for each in initializers[:3])
    return shown + (f" and {len(initializers) - 3} more" if len(initializers) > 3 else "")
