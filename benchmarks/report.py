"""The page and its pictures, a pure function of what was measured: the same JSON gives the same bytes."""

import io
import json

import matplotlib
from matplotlib.figure import Figure

from .lines import is_met, is_open, shown_bound, shown_value, table, value

NUMBERS = "performance/measured.json"
MET, MISSED, UNBOUND = "#0072b2", "#d55e00", "#777777"
STYLE = {"svg.hashsalt": "unilora", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9}


def render(measured: dict) -> dict[str, str]:
    """The text of every file of the report by its path in docs/: the page, a picture for each row, and the numbers."""
    pictures = {_picture_of(row): picture(row) for row in measured["rows"] if row["lines"]}
    return {"performance.md": page(measured), NUMBERS: json.dumps(measured, indent=1) + "\n", **pictures}


def page(measured: dict) -> str:
    """docs/performance.md."""
    rows = measured["rows"]
    parts = [_head(measured), _summary(rows), *map(_section, rows), _profiles(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(measured):
    machine = measured["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = f"""# Performance

`{measured["command"]}` wrote this page, its pictures and [its numbers]({NUMBERS}) after
{measured["seconds"] / 60:.0f} minutes of measuring; nothing here is written by hand.

    processor   {machine["processor"]}, {machine["cores"]} cores, {machine["threads"]} threads used
    memory      {machine["memory"] / 2**30:.0f} GiB
    GPU         {machine["gpu"] or "none"}
    load        {machine["load"]:.1f} processes were running before the run
    versions    {versions}

What is compared takes turns in one loop, in an order that changes, so that whatever else the machine does reaches all
alike. Times are medians by the clock on the wall, with the quartiles in brackets. A ratio is that of two medians; its 90 % interval
comes from {measured["draws"]:,} draws of the rounds, the same for both. A bound is kept or not where the whole interval says so, and
open otherwise. Beside the ratio stand that of the lower quartiles, whose rounds met least of what else the machine did, and that of
processor time, in which other programs do not count and several threads count together; where other programs ran meanwhile, a
bound is decided only if processor time agrees. `make gpu` measures on a GPU ([gpu.md](gpu.md))."""
    if measured["quick"]:
        text += "\n\n**A quick run: two rounds of each. Its times and intervals mean nothing.**"
    return text


def _summary(rows):
    bounded = [(row, line) for row in rows for line in row["lines"] if line["at_most"] is not None]
    undecided = [(row, line) for row, line in bounded if is_open(line)]
    missed = [(row, line) for row, line in bounded if is_met(line) is False]
    kept = len(bounded) - len(missed) - len(undecided)
    text = f"Of {len(bounded)} bounds {kept} are kept, {len(missed)} not kept, and {len(undecided)} open."
    for title, some in (("Not kept are", missed), ("Open are", undecided)):
        if some:
            text += f"\n\n{title}:\n\n" + "\n".join(
                f"- {row['title']}, {line['name']}: {shown_value(line)}, where {shown_bound(line)} is the bound"
                for row, line in some
            )
    for row in rows:
        text += f"\n\nRow {row['row']}: {row['absent']}" if row["absent"] else ""
    return text


def _section(row):
    if row["absent"]:
        return ""
    lines = [f"## {row['row']}. {row['title']}", f"Measured: {row['measured']}. Against: {row['against']}.", row["how"]]
    if row.get("others") is not None:
        lines.append(f"While this was measured, other programs had {row['others']:.2f} processors.")
    return "\n\n".join(
        [*lines, table(row["lines"]), f"![{row['title']}: the table above as a picture]({_picture_of(row)})"]
    )


def _profiles(rows):
    """Where the time goes of every line that does not keep its bound, each profile once."""
    wanted = dict.fromkeys(
        (line["profile"], row["row"])
        for row in rows
        for line in row["lines"]
        if is_met(line) is False and line["profile"]
    )
    found = {name: entries for row in rows for name, entries in row["profiles"].items()}
    numbers = {name: [str(number) for other, number in wanted if other == name] for name, _ in wanted}
    parts = []
    for name, of_rows in numbers.items():
        entries = "\n".join(f"| {what} | {milliseconds:.2f} |" for what, milliseconds in found[name])
        parts.append(f"### {name}\n\nRows: {', '.join(of_rows)}.\n\n| | ms |\n|---|---|\n{entries}")
    if not parts:
        return ""
    about = (
        "For what does not keep its bound. Milliseconds of one call or step without what an entry calls itself,"
        " measured by a profiler that takes time of its own; less the base's where that is said."
    )
    return "\n\n".join(["## Where the time goes", about, *parts])


def _picture_of(row):
    return f"performance/row-{row['row']:02}.svg"


def picture(row: dict) -> str:
    """Every line of a row as a point with its interval, and its bound as a stroke: SVG."""
    lines = row["lines"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.42 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for place, line in enumerate(lines):
            at, met = value(line), is_met(line)
            color = {True: MET, False: MISSED, None: UNBOUND}[met]
            if line["bounds"] == "ratio":
                axes.plot([line["low"], line["high"]], [place, place], color=color, linewidth=3, alpha=0.4)
            axes.plot(at, place, "o" if met is not False else "X", color=color)
            axes.text(1.01, place, shown_value(line), transform=axes.get_yaxis_transform(), va="center")
            if line["at_most"] is not None:
                axes.plot([line["at_most"]] * 2, [place - 0.35, place + 0.35], color="black", linewidth=1.5)
        axes.set_yticks(range(len(lines)), [line["name"] for line in lines])
        axes.set_ylim(len(lines) - 0.4, -0.7)
        ends = [end for line in lines for end in (line["low"], line["high"], value(line), line["at_most"] or 0)]
        axes.set_xlim(min(0, *ends), 1.05 * max(ends))
        against = f" / {row['against']}" if lines[0]["bounds"] == "ratio" else ""
        axes.set_xlabel(row["measured"] + against)
        axes.set_title("● kept  ✖ not kept  grey: open, or for information  |: the bound", loc="left", fontsize=9)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
