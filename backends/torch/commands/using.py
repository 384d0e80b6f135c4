"""The commands ``evaluate``, ``predict`` and ``generate``, which use a trained adapter."""

import json
import sys
from pathlib import Path

from unilora_spec import UniLoraError
from unilora_spec.command import printable

from ...runs.commands import CONFIG
from ...settings import EvaluateSettings, GenerateSettings, PredictSettings
from .app import command


@command(
    EvaluateSettings,
    "Examples: python -m backends.torch evaluate --adapter vec.safetensors --data test.csv --mistakes mistakes.csv"
    " · python -m backends.torch evaluate --adapter vec.safetensors --data gsm8k.jsonl --generate --answer number",
    CONFIG,
)
def evaluate(config: Path | None, as_json: bool, **options):
    """Measure an adapter on rows whose answers are known: its task's metrics, beside those of the base, and its mistakes.

    The class of the model, its head and the task follow from the adapter's record. For a language model, loss and
    perplexity are those of the answers; --generate compares generated answers too.
    """
    settings = EvaluateSettings.from_options(options, config)
    from ..using.evaluation import evaluate  # the import takes seconds, and a wrong call is refused before

    _print_report(evaluate(settings, progress=True), as_json, _show_evaluation)


@command(
    PredictSettings,
    "Example: python -m backends.torch predict --adapter vec.safetensors --data rows.csv --output predictions.csv",
    CONFIG,
)
def predict(config: Path | None, as_json: bool, **options):
    """Write rows with an adapter's predictions for them: a class and its probability, a number, or a generated text.

    No labels are needed. Every row comes out, in the order of the input; rows without a text have an empty prediction,
    and are counted.
    """
    settings = PredictSettings.from_options(options, config)
    from ..using.prediction import predict

    _print_report(predict(settings, progress=True), as_json, _show_prediction)


@command(
    GenerateSettings,
    "Examples: python -m backends.torch generate --adapter vec.safetensors --prompt 'Is this a good film?' --beside-base"
    " · python -m backends.torch generate --adapter vec.safetensors",
    CONFIG,
)
def generate(config: Path | None, as_json: bool, **options):
    """Generate text with an adapter of a language model: for a prompt, a file of prompts, or in a chat by lines of
    standard input.

    Prompts are shown to the model as in training: messages by the tokenizer's chat template, texts as they are. In a
    chat each line is answered when it comes, as part of one conversation; the chat ends with the input, or by Ctrl-C.
    """
    settings = GenerateSettings.from_options(options, config)
    chat = settings.prompt is None and settings.prompts is None
    if chat and as_json:
        raise UniLoraError("--json is for prompts that are given; give --prompt or --prompts")
    from ..using.conversation import Speaker, prompts_of

    asked = [settings.prompt] if settings.prompts is None else list(prompts_of(settings.prompts))
    speaker = Speaker(settings, progress=True)
    for warning in speaker.trained.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if chat:
        _converse(speaker)
    elif settings.prompt is not None and not as_json:
        speaker.say(settings.prompt)
    else:
        answers = speaker.answers(asked, progress=True)
        found = [{"prompt": prompt} | answer for prompt, answer in zip(asked, answers)]
        print(json.dumps({"answers": found}, indent=2, ensure_ascii=False)) if as_json else _show_answers(found)


def _converse(speaker) -> None:
    """Holds a chat until the input ends. Ctrl-C ends it too, without an error."""

    def lines():
        while True:
            if sys.stdin.isatty():
                print("> ", end="", file=sys.stderr, flush=True)
            if not (line := sys.stdin.readline()):
                return
            yield line

    try:
        speaker.converse(lines())
    except KeyboardInterrupt:
        print()


def _print_report(report: dict, as_json: bool, show) -> None:
    for warning in report["warnings"]:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(report)


def _line(text: str) -> None:
    print(printable(text))


def _short(value, most=60) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _show_evaluation(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows, base, mistakes = report["rows"], report["base_metrics"], report["mistakes"]
    _line(f"{report['adapter']} on {report['base']}: {rows['used']:,} rows of {report['data']}, task {report['task']}")
    if left_out := [f"{count:,} have no {what}" for what, count in rows["dropped"].items()]:
        _line(f"left out: {', '.join(left_out)}")
    table = Table("", "base", "adapter") if base else Table("", "adapter")
    for name, value in report["metrics"].items():
        table.add_row(name.replace("_", " "), *([f"{base[name]:.4f}"] if base else []), f"{value:.4f}")
    if generated := report.get("generated"):
        both = [f"{generated['base_exact_match']:.4f}"] if base else []
        table.add_row(f"generated, {generated['answer']}", *both, f"{generated['exact_match']:.4f}")
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table)
    if "wrong" in mistakes:
        _line(f"wrong: {mistakes['wrong']:,} of {mistakes['of']:,}")
    for each in mistakes.get("confusion", ())[:5]:
        _line(f"  {each['count']:,} times {_short(each['prediction'])} in place of {_short(each['answer'])}")
    shown = mistakes["examples"][:5]
    if shown:
        heads = {
            "probability": "The most certain wrong answers",
            "error": "The largest errors",
            "loss": "The least expected",
        }
        console.print(heads.get(mistakes["by"], "Wrong answers") + ":")
        table = Table()
        for name in shown[0]:
            table.add_column(Text(printable(name)))
        for each in shown:
            table.add_row(*(Text(printable(f"{v:.4f}" if isinstance(v, float) else _short(v))) for v in each.values()))
        console.print(table)
    if "file" in mistakes:
        _line(f"all of them: {mistakes['file']}")


def _show_prediction(report: dict) -> None:
    _line(
        f"{report['output']}: {report['rows']:,} rows, {report['bytes']:,} bytes; new columns {', '.join(report['columns'])}"
    )
    for why, count in report["empty"].items():
        said = (
            f"{count:,} {'is' if count == 1 else 'are'} too long" if why == "too long" else f"{count:,} without {why}"
        )
        _line(f"  with an empty prediction: {said}")


def _show_answers(found: list[dict]) -> None:
    from ..using.generation import visible

    for each in found:
        prompt = each["prompt"] if isinstance(each["prompt"], str) else each["prompt"][-1].get("content")
        _line(f"prompt:  {_short(prompt, 100)}")
        for name, text in list(each.items())[1:]:
            said = "(the prompt is longer than the base can read)" if text is None else visible(text)
            print(f"{'adapter' if name == 'generated' else name}:".ljust(9) + said)
