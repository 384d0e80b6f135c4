"""Runs ``python -m backends.web --graph step.onnx``, which serves the page that trains to browsers on this machine."""

import argparse
from pathlib import Path

from unilora_spec import UniLoraError
from unilora_spec.command import run, say

from .serving import given, server

FIELDS = {
    "text": "column of the texts",
    "label": "column of the labels",
    "where": "COLUMN=VALUE: only the rows with this value",
    "sentences": "texts to try, a line each",
}
"""The fields of the page that a call may fill, and what each holds."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m backends.web",
        description="Serves the page that trains an adapter in a browser, to this machine alone, until Ctrl-C.",
        epilog="Example: python -m backends.web --graph step.onnx --data reviews.csv. docs/web.md has the rest.",
    )
    parser.add_argument("--graph", type=Path, help="a step graph, as python -m export onnx --mode step makes it")
    parser.add_argument(
        "--base",
        type=Path,
        help="folder of the base, whose tokenizer.json is read; by default the one that the adapter names",
    )
    parser.add_argument("--data", type=Path, help="a .csv or .tsv file of examples")
    for name, what in FIELDS.items():
        parser.add_argument(f"--{name}", metavar="TEXT", help=f"fills a field of the page: {what}")
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path("build/web/node_modules"),
        help="npm's folder node_modules with the page's packages",
    )
    parser.add_argument("--port", type=int, default=0, help="the server's port; by default a free one")
    call = parser.parse_args()
    fields = {name: value for name in FIELDS if (value := getattr(call, name)) is not None}
    opened = given(call.graph, call.base, call.data, fields)
    try:
        made = server(opened, call.packages, call.port)
    except (OSError, OverflowError) as error:
        raise UniLoraError(f"--port {call.port} cannot be used: {error}; leave it out for a free one") from None
    print(f"http://127.0.0.1:{made.server_port}/", flush=True)
    say("Open this address in a browser; Ctrl-C ends the server.")
    try:
        made.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        made.server_close()
    return 0


if __name__ == "__main__":
    run(main)
