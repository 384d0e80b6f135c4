"""Writes the model card beside an adapter's file, in the form of the Hugging Face Hub: base, data, settings and
metrics."""

import hashlib
import shlex
from importlib import metadata
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from unilora_spec import Adapter, UniLoraError
from unilora_spec.command import printable
from unilora_spec.documents import read_bytes
from unilora_spec.places import check_output

from ...runs.tables import rounded
from ...settings import TrainSettings

MARK = "<!-- unilora card, SHA-256 of what stands above: "
END = " -->\n"
PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "multi-label": "text-classification",
    "token-classification": "token-classification",
    "causal-lm": "text-generation",
    "seq2seq": "text2text-generation",
    "image-classification": "image-classification",
}
VERSIONS = ("unilora", "torch", "transformers")


def card_beside(file: Path) -> Path:
    """The place of the card of an adapter's file: vec.md beside vec.safetensors."""
    return file.with_suffix(".md") if file.suffix == ".safetensors" else file.with_name(f"{file.name}.md")


def check_card(path: Path) -> None:
    """Raises ``UniLoraError`` unless a card may be written to ``path`` (``is_free``)."""
    check_output(path)
    if not is_free(path):
        raise UniLoraError(
            f"{path} is no card as it was written, as somebody has changed it; move it away, or give --no-card"
        )


def is_free(path: Path) -> bool:
    """Whether there is no file at ``path``, or a card that nobody has changed since it was written."""
    return not path.exists() or is_unchanged(read_bytes(path))


def is_unchanged(card: bytes) -> bool:
    """Whether these bytes are a card as ``marked`` has made it."""
    text, mark, end = card.rpartition(MARK.encode())
    return bool(mark) and end == hashlib.sha256(text).hexdigest().encode() + END.encode()


def marked(text: str) -> bytes:
    """A card with a last line that shows whether the card was changed."""
    return text.encode() + f"{MARK}{hashlib.sha256(text.encode()).hexdigest()}{END}".encode()


def card_of(settings: TrainSettings, report: dict, adapter: Adapter, content: bytes) -> bytes:
    """The card of a training run's adapter, whose file has this ``content``; ``report`` is that of the run.

    The same run gives the same bytes, as the card has no date and no time. The hub's fields for base and data take ids
    alone, so that names of files and folders are in the text.
    """
    name = settings.output.stem
    return marked(f"---\n{_front(settings, report, name)}\n---\n\n{_text(settings, report, adapter, content, name)}")


def _front(settings, report, name) -> str:
    of_hub = None if Path(settings.data).exists() else settings.data.split(":")[0]
    results = [
        EvalResult(
            task_type=PIPELINES[settings.task],
            dataset_type=of_hub or "file",
            dataset_name=_held_out_of(settings),
            metric_type=metric,
            metric_value=rounded(value),
        )
        for metric, value in report["after"].items()
    ]
    data = ModelCardData(
        base_model=None if Path(settings.base).exists() else settings.base,
        library_name="unilora",
        pipeline_tag=PIPELINES[settings.task],
        tags=["uni-lora", "lora", "adapter"],
        datasets=[of_hub] if of_hub else None,
        metrics=list(report["after"]) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _text(settings, report, adapter, content, name) -> str:
    projection, rows, base = adapter.projection, report["rows"], adapter.base
    ranks = sorted({segment.rank for segment in adapter.layer_map.segments})
    weights = len(adapter.layer_map.by_weight())
    labels = f"; {', '.join(base.labels)}" if base.labels else ""
    facts = {
        "File": f"{settings.output.name}, {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}",
        "Base": f"{settings.base}, {base.architecture}, contents {base.contents}",
        "Task": f"{settings.task}{labels}",
        "Vector": f"kind {projection.kind}, d = {projection.d:,} of D = {projection.D:,}, seed {settings.seed}, rank"
        f" {', '.join(map(str, ranks))} on {weights} weights",
        "In full": ", ".join(sorted(adapter.saved)) or "nothing",
        "Data": f"{_name(settings.data)}: {rows['train']:,} rows to train on{_digest(settings.data)}",
        "Held out": f"{rows['held_out']:,} rows of {_held_out_of(settings)}{_digest(settings.eval) if settings.eval else ''}",
        "Versions": ", ".join(f"{package} {version}" for package, version in _versions()),
    }
    lines = [
        f"# {_cell(name)}",
        "",
        f"A Uni-LoRA adapter of {_cell(_name(settings.base))}: one vector for the whole model.",
        "",
    ]
    lines += ["| | |", "|---|---|", *(f"| {what} | {_cell(said)} |" for what, said in facts.items()), ""]
    if report["after"]:
        lines += ["On the rows held out:", "", "| | before | after |", "|---|---|---|"]
        for metric, value in report["after"].items():
            lines.append(f"| {metric.replace('_', ' ')} | {report['before'][metric]:.4f} | {value:.4f} |")
        lines.append("")
    command = printable(f"python -m backends.torch train {shlex.join(settings.as_options())}")
    lines += ["Made by:", "", f"    {command}", "", "Used by, for example:", ""]
    use = (
        "generate --adapter"
        if settings.task in ("causal-lm", "seq2seq")
        else "predict --data rows.csv --output out.csv --adapter"
    )
    return "\n".join([*lines, f"    python -m backends.torch {use} {shlex.quote(settings.output.name)}", "", ""])


def _name(source: str) -> str:
    return Path(source).name if Path(source).exists() else source


def _held_out_of(settings) -> str:
    return _name(settings.eval or settings.data)


def _digest(source: str) -> str:
    if not Path(source).is_file():
        return ""
    with open(source, "rb") as file:
        return f", SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _versions():
    for package in VERSIONS:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:  # run from its sources
            continue


def _cell(text: str) -> str:
    """A text in a cell of a table: names come from files, and could end the cell or begin a picture."""
    return "".join(f"\\{sign}" if sign in "|`<[]*_\\" else sign for sign in printable(text))
