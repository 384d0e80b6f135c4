"""docs/comparison.md, its picture and its numbers: a pure function of what was measured, its sentences too."""

import io
import itertools
import json

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..report import MET, STYLE, UNBOUND
from .methods import HEAD, METHODS, NEAR, OWN, REFERENCE, SIDE, WEIGHTS, D
from .told import T, difference

PAGE, NUMBERS, PICTURE = "comparison.md", "comparison/numbers.json", "comparison/accuracy.svg"


def render(measured: dict) -> dict[str, str]:
    """The text of every file by its path in docs/."""
    return {PAGE: page(measured), PICTURE: picture(measured), NUMBERS: json.dumps(measured, indent=1) + "\n"}


def page(measured: dict) -> str:
    """docs/comparison.md."""
    sections = [_section(measured, budget) for budget in measured["budgets"]]
    parts = [_head(measured), _overview(measured), _told(measured), *sections, _rates(measured), _left_out(measured)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(measured):
    machine, protocol = measured["machine"], measured["protocol"]
    runs = [second for cell in measured["cells"] for second in cell["seconds"]]
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    text = f"""# Comparison

`{measured["command"]}` wrote this page, its picture and [its numbers]({NUMBERS}) after {len(runs)} trainings, {sum(runs) / 3600:.1f} hours
of one thread in all; nothing here is written by hand.

One base, all-MiniLM-L6-v2, and one data set, Rotten Tomatoes. Adapted are the {WEIGHTS} query and value weights, {SIDE} × {SIDE}, and
beside each adapter the same new head is trained, 770 numbers, which are not in the counts below. A run sees
{protocol["steps"] * protocol["batch"]:,} sentences once, in {protocol["steps"]} batches of {protocol["batch"]}, with AdamW, a learning rate that rises for 6 % of the steps and then falls
to 0, and no dropout; it is judged by {measured["judged"]:,} held-out sentences. A seed gives P, the start, the head's start and the order of
the sentences, the same for all methods. {protocol["seeds"]} seeds; “±” is the standard deviation over them. So short a training is what time
allows, and favours what learns fast: its end is not the best that a method can do.

A method stands at a budget where it can have as many parameters, to within {NEAR:.0%}, on the same weights. Where θ has a length of its
choice, θ_D has {D:,} entries, A and B of rank 4.

    processor   {machine["processor"]}, {machine["cores"]} cores, a thread for each run
    memory      {machine["memory"] / 2**30:.0f} GiB
    versions    {versions}

![Accuracy against trained parameters, a point for each method and budget, with its standard deviation]({PICTURE})"""
    if measured["quick"]:
        text += f"\n\n**A quick run, {protocol['steps']} steps of each: its numbers mean nothing.**"
    return text


def _overview(measured):
    """Accuracy by method and budget."""
    budgets = measured["budgets"]
    cells = {(cell["method"], cell["budget"]): cell for cell in measured["cells"]}
    table = [
        f"| accuracy at | {' | '.join(map(_count, budgets))} |",
        "|---" * (1 + len(budgets)) + "|",
    ]
    for name in dict.fromkeys(cell["method"] for cell in measured["cells"]):
        there = [cells.get((name, budget)) for budget in ([0] if name == HEAD else budgets)]
        shown = [_shown(cell) if cell else "" for cell in there]
        table.append(f"| `{name}`, {METHODS[name].about} | {' | '.join(shown)}{' |' * (len(budgets) - len(shown))} |")
    return "\n".join(table)


def _told(measured):
    seeds = measured["protocol"]["seeds"]
    text = "## What can be told"
    if seeds < 2:
        return f"{text}\n\nNothing: one seed has no spread."
    found = list(_comparisons(measured))
    reach = np.median([max(one.of_seeds, one.of_sentences) for _, lines in found for _, one in lines]) if found else 0
    count = sum(len(lines) for _, lines in found)
    text += f"""

Two methods are compared seed by seed and sentence by sentence. A difference of their mean accuracies is told where zero is outside
of two 95 % intervals: over the seeds (Student's t: with {seeds} seeds the mean ± {T[seeds] / seeds**0.5:.2f} standard deviations of their differences), so
that other seeds would show it too, and over the sentences, so that other sentences would. Half of the intervals below reach farther
than ±{reach:.3f}: a smaller difference may be there and cannot be seen. Of {count} comparisons, chance alone may tell some {count * 0.05:.0f}. In brackets: the difference ± the wider interval."""
    for title, lines in found:
        if not lines:
            continue
        text += f"\n\n**{title}**\n\n" + "\n".join(
            f"- {verdict}: {', '.join(names)}" for verdict, names in _sorted(lines).items() if names
        )
    return text


def _sorted(lines):
    """Names by what is told of them."""
    verdicts = {"higher": [], "lower": [], "no difference can be told": []}
    for name, one in lines:
        verdict = "no difference can be told" if not one.is_told else "higher" if one.mean > 0 else "lower"
        verdicts[verdict].append(f"{name} ({one.mean:+.3f} ± {max(one.of_seeds, one.of_sentences):.3f})")
    return verdicts


def _comparisons(measured):
    """What is compared: a title, and by its name the difference of each that stands beside what the title says."""
    cells = {(cell["method"], cell["budget"]): cell for cell in measured["cells"] if None not in cell["accuracy"]}
    rights = {key: _bits(cell["right"], measured["judged"]) for key, cell in cells.items()}

    def beside(pairs):
        """Of (name, what, beside what): those that are there."""
        return [(name, difference(rights[a], rights[b])) for name, a, b in pairs if a in rights and b in rights]

    numbered = itertools.pairwise(budget for budget in measured["budgets"] if budget != OWN)
    more = [(f"{high:,} beside {low:,}", (REFERENCE, high), (REFERENCE, low)) for low, high in numbered]
    yield f"{REFERENCE} with more parameters", beside(more)
    for budget in measured["budgets"]:
        there = [key for key in cells if key[1] == budget]
        yield (
            f"{_at(budget)}, beside {REFERENCE}",
            beside((key[0], key, (REFERENCE, budget)) for key in there if key[0] != REFERENCE),
        )
        yield f"{_at(budget)}, beside the {HEAD}", beside((key[0], key, (HEAD, 0)) for key in there)


def _bits(right, judged):
    return [np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:judged].astype(bool) for text in right]


def _at(budget):
    return "Each with its own" if budget == OWN else f"At {budget:,} parameters"


def _count(budget):
    return budget if budget == OWN else f"{budget:,}"


def _section(measured, budget):
    first = budget == measured["budgets"][0]  # the head alone has no budget, and stands in the first table
    cells = [cell for cell in measured["cells"] if cell["budget"] in ((0, budget) if first else (budget,))]
    reference = next(cell for cell in cells if cell["method"] == REFERENCE)
    step = reference["time"]["measured"]["median"]
    about = (
        f"Time and memory of a step: all methods in turns, torch with {measured['machine']['threads']} threads; the time beside that of"
        f" {REFERENCE}, {step * 1000:.0f} ms, with its 90 % interval, and the peak of allocated memory above the {HEAD}'s."
    )
    table = [
        "| | | parameters | learning rate | accuracy | of each seed | file, bytes | time | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(_row(cell))} |" for cell in cells),
    ]
    return "\n\n".join([f"## {_at(budget)}", about, "\n".join(table)])


def _row(cell):
    time = cell["time"]
    interval = "" if cell["method"] == REFERENCE else f" ({time['low']:.2f} to {time['high']:.2f})"
    return [
        f"`{cell['method']}`",
        f"{METHODS[cell['method']].about}{_arguments(cell['arguments'])}",
        f"{cell['parameters']:,}",
        f"{cell['rate']:g}",
        _shown(cell),
        ", ".join("–" if one is None else f"{one:.3f}" for one in cell["accuracy"]),
        f"{cell['bytes']:,}",
        f"{time['ratio']:.2f}{interval}",
        f"{cell['memory'] / 1e6:.1f}",
    ]


def _arguments(arguments):
    """What is not in the column of parameters: rank and options."""
    shown = {"rank": arguments.get("rank")} | arguments.get("options", {})
    return "".join(f", {name} {value}" for name, value in shown.items() if value is not None)


def _spread(cell):
    """The standard deviation over the seeds; of a single one there is none."""
    return np.std(cell["accuracy"], ddof=1) if len(cell["accuracy"]) > 1 else 0.0


def _shown(cell):
    if None in cell["accuracy"]:
        return "the loss is no number"
    return f"{np.mean(cell['accuracy']):.3f}" + (f" ± {_spread(cell):.3f}" if len(cell["accuracy"]) > 1 else "")


def _rates(measured):
    """Where the learning rates come from."""
    table, others = ["| | at | learning rate | tried: accuracy |", "|---|---|---|---|"], {}
    for cell in measured["cells"]:
        same = METHODS[cell["method"]].rates_of
        if same:
            others.setdefault(same, {})[cell["method"]] = None
            continue
        tried = ", ".join(
            f"{float(rate):g}: {'no number' if accuracy is None else f'{accuracy:.3f}'}"
            for rate, accuracy in cell["tried"].items()
        )
        table.append(
            f"| `{cell['method']}` | {_count(cell['budget']) if cell['budget'] else ''} | {cell['rate']:g} | {tried or 'none'} |"
        )
    about = (
        "AdamW's, for all of θ; the head's is 0.002 but where it is alone. Where rates were tried, it was with two other seeds, and"
        " they were judged, by the mean, on sentences that are neither trained on nor held out (`python -m benchmarks compare"
        " --search`)"
    )
    if any(not cell["tried"] and not METHODS[cell["method"]].rates_of for cell in measured["cells"]):
        about += (
            "; a method of which none were tried at a budget takes the rule in benchmarks/compare/methods.py, times the factor by"
            " which the nearest search found it wrong"
        )
    about += "."
    about += "".join(f" {', '.join(f'`{name}`' for name in names)}: as `{same}`." for same, names in others.items())
    return "\n\n".join(["## Learning rates", about, "\n".join(table)])


def _left_out(measured):
    why = {}
    for one in measured["left_out"]:
        why.setdefault((one["method"], one["why"]), []).append(one["budget"])
    lines = []
    for (name, reason), budgets in why.items():
        where = f" at {', '.join(map(_count, budgets))}" if budgets != [None] else ""
        lines.append(f"- `{name}`{where}: {reason}")
    return "\n\n".join(["## Left out", "\n".join(lines)]) if lines else ""


def picture(measured: dict) -> str:
    """Accuracy against parameters, SVG: each method beside balanced and the head alone, in a panel of its own."""
    cells = [cell for cell in measured["cells"] if None not in cell["accuracy"]]
    names = [name for name in dict.fromkeys(cell["method"] for cell in cells) if name not in (HEAD, REFERENCE)]
    names = names or [REFERENCE]
    columns = min(len(names), 5)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.7 + 2.1 * -(-len(names) // columns)), layout="constrained")
        panels = figure.subplots(-(-len(names) // columns), columns, sharex=True, sharey=True, squeeze=False)
        for name, axes in itertools.zip_longest(names, panels.flat):
            axes.set_visible(name is not None)
            if name is None:
                continue
            axes.set_xscale("log")
            for cell in cells:
                if cell["method"] == HEAD:
                    axes.axhline(np.mean(cell["accuracy"]), color=UNBOUND, linewidth=0.8, linestyle="--")
            for line, color in {REFERENCE: UNBOUND, name: MET}.items():
                own = sorted((cell for cell in cells if cell["method"] == line), key=lambda cell: cell["parameters"])
                axes.errorbar(
                    [cell["parameters"] for cell in own],
                    [np.mean(cell["accuracy"]) for cell in own],
                    [_spread(cell) for cell in own],
                    color=color,
                    marker="o",
                    markersize=3.5,
                    linewidth=1,
                    capsize=2,
                )
            axes.set_title(name, fontsize=9, color=MET)
            axes.grid(axis="y", linewidth=0.3)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        for axes in panels.flat[max(len(names) - columns, 0) : len(names)]:  # also above an empty place
            axes.tick_params(labelbottom=True)
        axes = panels[0, 0]
        axes.xaxis.set_major_locator(LogLocator())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        figure.supxlabel("trained parameters beside the head's", fontsize=9)
        figure.supylabel("accuracy on held-out sentences", fontsize=9)
        figure.suptitle(f"blue: the method  grey: {REFERENCE}  dashed: the {HEAD}", fontsize=9, x=0.01, ha="left")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
