"""Writes docs/comparison.md, its pictures and its numbers: all of it, the sentences too, is a pure function of the measurements."""

import itertools
import json

import numpy as np

from .differences import T, difference
from .method import HEAD, NEAR, OWN, REFERENCE, SIDE, WEIGHTS, D
from .methods import METHODS
from .numbers import NOT_RUN
from .picture import picture, spread
from .runs import DATA_SETS, TOMATOES

PAGE, NUMBERS = "comparison.md", "comparison/numbers.json"


def render(numbers: dict[str, dict]) -> dict[str, str]:
    """The text of every file by its path in docs/, of the numbers of each data set."""
    pictures = {picture_of(data): picture(measured) for data, measured in numbers.items()}
    return {PAGE: page(numbers), NUMBERS: json.dumps(numbers, indent=1) + "\n"} | pictures


def picture_of(data: str) -> str:
    """The path of a data set's picture."""
    return "comparison/accuracy.svg" if data == TOMATOES else f"comparison/accuracy-{data}.svg"


def page(numbers: dict[str, dict]) -> str:
    """docs/comparison.md."""
    parts = [_head(numbers)]
    for data, measured in numbers.items():
        sections = [_section(measured, budget) for budget in measured["budgets"]]
        parts += [_about(data, measured), _overview(measured), _differences(measured), *sections]
        parts += [_rates(measured), _left_out(measured)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(numbers):
    runs = [second for measured in numbers.values() for cell in measured["cells"] for second in cell["seconds"]]
    titles = [DATA_SETS[data].title for data in numbers]
    return f"""# Comparison

This page compares the kinds of this project and methods of PEFT at equal numbers of trained parameters, for somebody who
has to choose one. It has the accuracy of each method, which differences are significant, the file size, time and memory at each
budget, the learning rates, and what was left out.

`python -m benchmarks compare` wrote the page, its pictures and [its numbers]({NUMBERS}) after {len(runs)} trainings, {sum(runs) / 3600:.1f} hours
of one thread in all; nothing here is written by hand.

The base is all-MiniLM-L6-v2, and the data are film reviews: {" and ".join(titles)}. The adapters are on its {WEIGHTS} query and value
weights, {SIDE} × {SIDE}. Beside each adapter the same new head is trained, 770 numbers, which are not in the counts below. A
seed determines P, the start, the head's start and the order of the rows, and is the same for all methods. “±” is the
standard deviation over the seeds.

A method is in a budget's table if it can have that many parameters, to within {NEAR:.0%}, on the same weights. If the length of θ
can be chosen, θ_D has {D:,} entries, which are A and B of rank 4."""


def _about(data, measured):
    protocol, rows = measured["protocol"], DATA_SETS[data].rows
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    text = f"""## {DATA_SETS[data].title}

A run sees {protocol["steps"] * protocol["batch"]:,} {rows} once, the first {protocol["max_length"]} tokens of each, in {protocol["steps"]} batches of {protocol["batch"]}, with AdamW, a learning rate that
rises for 6 % of the steps and then falls to 0, and no dropout. Its accuracy is measured on {measured["judged"]:,} held-out {rows}. {_seeds(measured)}.
The runs are as short as the time for this page required. That favours methods that learn fast; the end of a run need not be the best that a method can do.

{_calls(measured)}

Versions: {versions}.

![Accuracy against trained parameters, a point for each method and budget, with its standard deviation]({picture_of(data)})"""
    if measured["quick"]:
        text += f"\n\n**A quick run, {protocol['steps']} steps of each: its numbers mean nothing.**"
    return text


def _seeds(measured):
    """How many seeds there are, and which cells have fewer."""
    most = _most_seeds(measured)
    fewer = [cell for cell in measured["cells"] if len(cell["accuracy"]) < most]
    text = f"{most} seeds" if most > 1 else "One seed"
    if fewer:
        named = ", ".join(f"`{cell['method']}` at {_count(cell['budget'])} {len(cell['accuracy'])}" for cell in fewer)
        text += f", but of {named}"
    return text


def _most_seeds(measured):
    return max(len(cell["accuracy"]) for cell in measured["cells"])


def _calls(measured):
    """The table of calls: what each trained, when, and on which machine."""
    table = ["| date | call | trainings | processor | load while steps were timed |", "|---|---|---|---|---|"]
    for number, call in enumerate(measured["calls"]):
        machine, load = call["machine"], call["load"]
        count = sum(len(cell["accuracy"]) for cell in measured["cells"] if cell["call"] == number)
        table.append(
            f"| {call['date']} | `{call['command']}` | {count} | {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory'] / 2**30:.0f} GiB | {'' if load is None else f'{load:.1f}'} |"
        )
    return "\n".join(table)


def _overview(measured):
    """Accuracy by method and budget; a gap where it was not run says so."""
    budgets = measured["budgets"]
    cells = {(cell["method"], cell["budget"]): _shown(cell) for cell in measured["cells"]}
    gaps = {(one["method"], one["budget"]): NOT_RUN for one in measured["left_out"] if one["why"] == NOT_RUN}
    table = [
        f"| accuracy at | {' | '.join(map(_count, budgets))} |",
        "|---" * (1 + len(budgets)) + "|",
    ]
    for name in dict.fromkeys(cell["method"] for cell in measured["cells"]):
        there = [(gaps | cells).get((name, budget), "") for budget in ([0] if name == HEAD else budgets)]
        table.append(f"| `{name}`, {METHODS[name].about} | {' | '.join(there)}{' |' * (len(budgets) - len(there))} |")
    return "\n".join(table)


def _differences(measured):
    seeds = _most_seeds(measured)
    text = "### Which differences are significant"
    if seeds < 2:
        return f"{text}\n\nNone can be: one seed has no spread."
    found = list(_comparisons(measured))
    reach = np.median([max(one.of_seeds, one.of_sentences) for _, lines in found for _, one in lines]) if found else 0
    count = sum(len(lines) for _, lines in found)
    text += f"""

Two methods are compared seed by seed and sentence by sentence. A difference of their mean accuracies is significant if zero is
outside of two 95 % intervals. One is over the seeds (Student's t: with {seeds} seeds the mean ± {T[seeds] / seeds**0.5:.2f} standard deviations of their
differences), so that other seeds would show the difference too; the other is over the sentences, so that other sentences would.
Half of the intervals below reach farther than ±{reach:.3f}: a smaller difference may exist and cannot be seen. Of {count} comparisons,
chance alone makes about {count * 0.05:.0f} significant. The brackets have the difference ± the wider interval."""
    for title, lines in found:
        if not lines:
            continue
        text += f"\n\n**{title}**\n\n" + "\n".join(
            f"- {verdict}: {', '.join(names)}" for verdict, names in _sorted(lines).items() if names
        )
    return text


def _sorted(lines):
    """The names by verdict, each with its difference."""
    verdicts = {"higher": [], "lower": [], "no significant difference": []}
    for name, one in lines:
        verdict = "no significant difference" if not one.is_significant else "higher" if one.mean > 0 else "lower"
        verdicts[verdict].append(f"{name} ({one.mean:+.3f} ± {max(one.of_seeds, one.of_sentences):.3f})")
    return verdicts


def _comparisons(measured):
    """The comparisons under each title: (name, difference) of each method or budget with the one that the title names."""
    cells = {(cell["method"], cell["budget"]): cell for cell in measured["cells"] if None not in cell["accuracy"]}
    rights = {key: _bits(cell["right"], measured["judged"]) for key, cell in cells.items()}

    def beside(pairs):
        """(name, difference) of each (name, one, other) of which both were measured."""
        found = [(name, difference(*_of_both(rights[a], rights[b]))) for name, a, b in pairs if {a, b} <= rights.keys()]
        return [(name, one) for name, one in found if one]

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


def _of_both(right, others):
    """Both cut to the seeds that they have in common, which are the first ones."""
    common = min(len(right), len(others))
    return right[:common], others[:common]


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
    about, dated = "", len(measured["calls"]) > 1
    names = ["", "", "parameters", "learning rate", "accuracy", "of each seed", "file, bytes"]
    if "time" in reference:
        about = (
            f"The time of a step is a ratio to that of {REFERENCE}, {_milliseconds(measured, cells)}, with its 90 % interval. The methods of a"
            f" call take turns, and torch has {_call(measured, reference)['machine']['threads']} threads. The memory is the peak of allocated memory above the {HEAD}'s."
        )
        names += ["time", "memory, MB"]
    names += ["date"] * dated
    table = [
        f"| {' | '.join(names)} |",
        "|---" * len(names) + "|",
        *(f"| {' | '.join(_row(cell) + [_call(measured, cell)['date']] * dated)} |" for cell in cells),
    ]
    return "\n\n".join([f"### {_at(budget)}", *[about] * bool(about), "\n".join(table)])


def _call(measured, cell):
    return measured["calls"][cell["call"]]


def _milliseconds(measured, cells):
    """The time of a step of balanced in each call that measured one of these cells."""
    steps = {
        cell["call"]: f"{cell['time']['against']['median'] * 1000:.0f} ms ({_call(measured, cell)['date']})"
        for cell in cells
        if cell["budget"]
    }
    return ", ".join(steps.values())


def _row(cell):
    row = [
        f"`{cell['method']}`",
        f"{METHODS[cell['method']].about}{_arguments(cell['arguments'])}",
        f"{cell['parameters']:,}",
        f"{cell['rate']:g}",
        _shown(cell),
        ", ".join("–" if one is None else f"{one:.3f}" for one in cell["accuracy"]),
        f"{cell['bytes']:,}",
    ]
    if "time" in cell:
        time = cell["time"]
        interval = "" if cell["method"] == REFERENCE else f" ({time['low']:.2f} to {time['high']:.2f})"
        row += [f"{time['ratio']:.2f}{interval}", f"{cell['memory'] / 1e6:.1f}"]
    return row


def _arguments(arguments):
    """The arguments that the column of parameters does not show: rank and options."""
    shown = {"rank": arguments.get("rank")} | arguments.get("options", {})
    return "".join(f", {name} {value}" for name, value in shown.items() if value is not None)


def _shown(cell):
    if None in cell["accuracy"]:
        return "the loss is no number"
    return f"{np.mean(cell['accuracy']):.3f}" + (f" ± {spread(cell):.3f}" if len(cell["accuracy"]) > 1 else "")


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
        by_one = ", by one seed" if cell["search_seeds"] == 1 else ""
        table.append(
            f"| `{cell['method']}` | {_count(cell['budget']) if cell['budget'] else ''} | {cell['rate']:g} | {tried or 'none'}{by_one} |"
        )
    about = (
        "The table has AdamW's learning rate for all of θ. The head's is 0.002, except where the head is trained alone. The rates that"
        " were tried were compared with two other seeds, or one where the table says so, by the mean accuracy on sentences of Rotten"
        " Tomatoes that are neither trained on nor held out (`python -m benchmarks compare --search`)"
    )
    if any(not cell["tried"] and not METHODS[cell["method"]].rates_of for cell in measured["cells"]):
        about += (
            ". A method without tried rates at a budget takes the rule in benchmarks/compare, times the factor by"
            " which the nearest search found that rule wrong"
        )
    about += "."
    about += "".join(
        f" {', '.join(f'`{name}`' for name in names)}: the rates of `{same}`." for same, names in others.items()
    )
    return "\n\n".join(["### Learning rates", about, "\n".join(table)])


def _left_out(measured):
    why = {}
    for one in measured["left_out"]:
        why.setdefault((one["method"], one["why"]), []).append(one["budget"])
    lines = []
    for (name, reason), budgets in why.items():
        where = f" at {', '.join(map(_count, budgets))}" if budgets != [None] else ""
        lines.append(f"- `{name}`{where}: {reason}")
    return "\n\n".join(["### Left out", "\n".join(lines)]) if lines else ""
