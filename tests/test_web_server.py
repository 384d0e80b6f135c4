"""The server of the page, and what it refuses."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from threading import Thread

import pytest
from page import adapter, graph_of

from backends.web.serving import PAGE, Given, given, server
from unilora_spec import UniLoraError, save_adapter


@contextmanager
def served(tmp_path, **options):
    packages = tmp_path / "node_modules"
    (packages / "onnxruntime-web").mkdir(parents=True)
    (packages / "x.wasm").write_bytes(b"\0asm")
    made = server(options.pop("given", Given()), packages)
    Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        made.server_close()


def test_the_server(tmp_path):
    """Types and headers that browsers ask for; what is given; and nothing else of the disk."""
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na,b\n")
    with served(tmp_path, given=given(None, None, rows, {"text": "text"})) as address:
        with urllib.request.urlopen(address) as answer:
            assert answer.url == address + PAGE and b"<!doctype html>" in answer.read()
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for path, kind in {
            PAGE + "worker.mjs": "text/javascript",
            "/conformance_tests/examples/unilora.mjs": "text/javascript",
            "/packages/x.wasm": "application/wasm",
            "/given/table": "text/csv",
        }.items():
            with urllib.request.urlopen(address + path) as answer:
                assert answer.headers["Content-Type"] == kind
        with urllib.request.urlopen(address + "/given.json") as answer:
            told = json.load(answer)
        assert told == {"table": {"name": "rows.csv", "url": "/given/table"}, "fields": {"text": "text"}}
        for path in (
            "/packages/../secret.txt",
            "/packages/%2e%2e/secret.txt",
            PAGE + "../__init__.py",
            "/README.md",
            "/given/graph",
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address + path)
            assert refused.value.code == 404
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "elsewhere.example"}))
        assert refused.value.code == 403


def test_what_the_server_is_not_given(tmp_path):
    graph = tmp_path / "step.onnx"
    for make, words in (
        (lambda: None, "step.onnx is not there; make it by"),
        (lambda: graph.write_bytes(graph_of()), "step.safetensors is not there; the exporter writes it beside"),
        (
            lambda: save_adapter(adapter(), graph.with_suffix(".safetensors")),
            "tokenizer.json is not there; give --base",
        ),
    ):
        make()
        with pytest.raises(UniLoraError, match=words):
            given(graph, tmp_path, None, {})
    with pytest.raises(UniLoraError, match="rows.csv is not there"):
        given(None, None, tmp_path / "rows.csv", {})
    with pytest.raises(UniLoraError, match="packages are not there; run make web"):
        server(Given(), tmp_path)


def test_the_command(tmp_path):
    """One sentence and status 2 for a call that is wrong."""
    call = [sys.executable, "-m", "backends.web", "--graph", "none.onnx"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: none.onnx is not there")
        and done.stderr.count("\n") == 1
    )
