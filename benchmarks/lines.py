"""A line that ``measure.compared`` has made, as a row of a table, and in words."""

HEADER = [
    "| | measured | against | ratio | 90 % interval | lower quartiles | processor time | at most | |",
    "|---|---|---|---|---|---|---|---|---|",
]


def table(lines: list[dict]) -> str:
    """All of them, in Markdown."""
    return "\n".join([*HEADER, *(f"| {' | '.join(_cells(line))} |" for line in lines)])


def _cells(line):
    several = line["rounds"] > 1
    sides = [_shown_side(line[side], line["unit"], several) for side in ("measured", "against")]
    interval, quartiles = (_interval(line), f"{_of_quartiles(line):.3f}") if several else ("", "")
    processor = line.get("processor")  # which what was only counted has not
    shown_processor = f"{processor['ratio']:.3f} ({_interval(processor)})" if processor else ""
    ratio = f"{line['ratio']:.3f}"
    return [line["name"], *sides, ratio, interval, quartiles, shown_processor, shown_bound(line), verdict(line)]


def is_met(line: dict) -> bool | None:
    """Whether a line keeps its bound: None where it has none, and where the rounds leave it open."""
    if line["at_most"] is None or _why_open(line):
        return None
    return value(line) <= line["at_most"]


def is_open(line: dict) -> bool:
    """Whether the rounds leave open if a line keeps its bound."""
    return line["at_most"] is not None and bool(_why_open(line))


def verdict(line: dict) -> str:
    """In words: kept, not kept, or open and why."""
    if line["at_most"] is None:
        return "for information"
    if why := _why_open(line):
        return f"open: {why}"
    return "kept" if is_met(line) else "**not kept**"


def _why_open(line) -> str:
    """Nothing where it is decided. ``busy`` is said of a line that was measured while other programs ran: one that is longer is
    interrupted more often than one that is short, so that the clock alone does not decide then."""
    if line["bounds"] != "ratio":
        return ""
    sides = {_side(line, line["at_most"])}
    if line.get("busy") and line["processor"]:
        sides.add(_side(line["processor"], line["at_most"]))
    if None in sides:
        return "the bound is within the interval"
    return "other programs ran, and processor time says otherwise" if len(sides) > 1 else ""


def _side(ratio, bound) -> bool | None:
    """Whether a whole interval is at the bound or below it, or above; None where it has the bound within it."""
    if ratio["low"] <= bound < ratio["high"]:
        return None
    return ratio["high"] <= bound


def value(line: dict) -> float:
    """What the bound is on."""
    return line["ratio"] if line["bounds"] == "ratio" else line["measured"]["median"]


def shown_value(line: dict) -> str:
    """The same with its unit."""
    return f"{line['ratio']:.3f}" if line["bounds"] == "ratio" else shown(line["measured"]["median"], line["unit"])


def shown_bound(line: dict) -> str:
    """The bound with its unit; nothing where there is none."""
    if line["at_most"] is None:
        return ""
    return f"{line['at_most']:g}" + ("" if line["bounds"] == "ratio" else f" {line['unit']}")


def shown(number: float, unit: str) -> str:
    """A number with its unit, to three digits; whole numbers of bytes to the last."""
    if unit == "s":
        size = abs(number)
        scale, name = (1, "s") if size >= 1 else (1e3, "ms") if size >= 1e-3 else (1e6, "µs")
        return f"{number * scale:.3g} {name}"
    return f"{number:,.0f} bytes" if unit == "bytes" else f"{number:.3g} {unit}"


def _interval(ratio):
    return f"{ratio['low']:.3f} to {ratio['high']:.3f}"


def _of_quartiles(line):
    """The ratio of the times that a quarter of the rounds kept below: of all that a machine does beside, they have met the least."""
    measured, against = (line[side]["quartiles"][0] for side in ("measured", "against"))
    return measured / against if against else float("nan")


def _shown_side(side, unit, several):
    lower, upper = side["quartiles"]
    return shown(side["median"], unit) + (f" ({shown(lower, unit)}, {shown(upper, unit)})" if several else "")
