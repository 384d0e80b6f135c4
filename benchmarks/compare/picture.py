"""The picture of a data set's numbers, a pure function of them."""

import io
import itertools

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..report import MET, STYLE, UNBOUND
from .method import HEAD, REFERENCE


def spread(cell):
    """The standard deviation over the seeds; of a single one there is none."""
    return np.std(cell["accuracy"], ddof=1) if len(cell["accuracy"]) > 1 else 0.0


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
                    [spread(cell) for cell in own],
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
        figure.supylabel("accuracy on what is held out", fontsize=9)
        figure.suptitle(f"blue: the method  grey: {REFERENCE}  dashed: the {HEAD}", fontsize=9, x=0.01, ha="left")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
