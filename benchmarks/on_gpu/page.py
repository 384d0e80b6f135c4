"""The page of ``make gpu``, a pure function of what was found: the same JSON gives the same bytes."""

from ..lines import table
from .findings import FAILED, LEFT_OUT, MEASURED

REHEARSAL = (
    "**A rehearsal: there is no GPU.** The kernels ran in Triton's interpreter on small sizes, to see that each part runs; no time was"
    " measured, and nothing here says how a GPU answers."
)
ABOUT = (
    "A time is the GPU's own, in turns, of a call of a kernel or of a whole step; a ratio is that of two medians, with its 90 % interval."
    " A bound that is not kept is no failure."
)


def page(found: dict) -> str:
    """gpu.md."""
    parts = found["parts"]
    head = [
        "# On a GPU",
        f"`{found['command']}` wrote this page after {found['seconds']:.0f} seconds; nothing here is written by hand.",
        *([REHEARSAL] if found["rehearsal"] else []),
        "\n".join(["| part | | seconds |", "|---|---|---|", *map(_summary, parts)]),
        _listed("What failed", parts, FAILED),
        _listed("What was left out", parts, LEFT_OUT),
        ABOUT,
    ]
    return "\n\n".join(filter(None, [*head, *map(_section, parts)])) + "\n"


def _summary(part):
    return (
        f"| {part['title']} | {part['status'] if part['status'] != FAILED else '**failed**'} | {part['seconds']:.0f} |"
    )


def _listed(title, parts, status):
    lines = [
        f"- {part['title']}, {one['name']}: {one['says']}"
        for part in parts
        for one in part["findings"]
        if one["status"] == status
    ]
    return "\n".join([f"{title}:", "", *lines]) if lines else ""


def _section(part):
    said = [f"- {one['name']}: {_said(one)}" for one in part["findings"] if one["status"] not in (MEASURED, LEFT_OUT)]
    lines = [one["line"] for one in part["findings"] if one["line"]]
    rates = [f"- {one['name']}: {one['says']}" for one in part["findings"] if one["line"] and "GB/s" in one["says"]]
    blocks = ["\n".join(said), table(lines) if lines else "", "\n".join(rates)]
    return "\n\n".join(filter(None, [f"## {part['title']}", *blocks])) if any(blocks) else ""


def _said(one):
    return f"**failed**: {one['says']}" if one["status"] == FAILED else f"{one['status']}, {one['says']}"
