"""What a run says about its rows, as it begins and in its report."""

from ..rows.split import without


def announcement(base, rows, task) -> str:
    """A line on the rows that the run on ``base``, a folder or an id, is about to train on."""
    line = f"{base}: {len(rows.train):,} rows to train on"
    line += f", {len(rows.held_out):,} held out" if rows.held_out else ""
    line += f"; left out: {without(rows.dropped)}" if rows.dropped else ""
    line += f"; {task.found}" if task.found else ""
    return line + (f"; {len(task.labels)} classes" if task.labels else "")


def rows_of(rows, task) -> dict:
    """The numbers of rows of a run, for its report."""
    held_out = len(rows.held_out) if rows.held_out else 0
    return {"train": len(rows.train), "held_out": held_out, "dropped": dict(rows.dropped)} | task.counts
