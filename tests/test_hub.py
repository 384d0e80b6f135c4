"""An adapter's card, and adapters on the hub."""

import hashlib
import http.server
import json
import os
import re
import threading
from base64 import b64decode

import pytest
import yaml
from after_training import SMALL, called, classifier, refused, work  # noqa: F401  fixtures
from runs import base, one_thread, own_cache  # noqa: F401  fixtures
from warmed import module, warmed

from backends.settings import TrainSettings
from backends.torch.training.train import train
from backends.torch.using.card import card_beside, is_unchanged
from backends.torch.using.hub import pull, push
from unilora_spec import WorkFailed

# The card


def test_the_card_says_what_was_done_and_is_the_same_for_the_same_run(classifier, work, tmp_path):
    vector, report = classifier
    card = card_beside(vector).read_text()
    assert report["card"] == str(card_beside(vector))
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "unilora" and front["pipeline_tag"] == "text-classification"
    values = {each["type"]: each["value"] for each in front["model-index"][0]["results"][0]["metrics"]}
    assert values == pytest.approx(report["after"], rel=1e-5)  # six digits are written
    assert hashlib.sha256(vector.read_bytes()).hexdigest() in card
    assert hashlib.sha256((work / "reviews.csv").read_bytes()).hexdigest() in card
    command = re.search(r"python -m backends.torch (train .*)", card)[1].replace(
        str(vector), str(tmp_path / "reviews.safetensors")
    )
    assert called(*command.split()).exit_code == 0
    assert (tmp_path / "reviews.safetensors").read_bytes() == vector.read_bytes()
    assert (tmp_path / "reviews.md").read_text().replace(str(tmp_path), str(work)).split("<!--")[0] == card.split(
        "<!--"
    )[0]


def test_a_card_that_somebody_changed_stays(base, work, tmp_path):
    output = tmp_path / "vec.safetensors"
    settings = {"base": base, "data": work / "numbers.csv", "task": "regression", "dim": 20, "output": output, **SMALL}
    train(TrainSettings(**settings))
    card = card_beside(output)
    assert is_unchanged(card.read_bytes())
    train(TrainSettings(**settings))  # its own card is replaced
    card.write_text(changed := card.read_text().replace("# vec", "# My adapter"))
    assert "somebody has changed it; move it away, or give --no-card" in refused(train, TrainSettings(**settings))
    report = train(TrainSettings(**settings, card=False))
    assert card.read_text() == changed and report["card"] is None


def test_settings_are_written_as_the_options_that_give_them():
    settings = TrainSettings(
        base="b c", data="d", output="v", targets="query,value", ranks="query=2,value=3", where="source=a,b", dim=7, bf16=True,
        holdout=0.2, card=False,
    )  # fmt: skip
    options = settings.as_options()
    assert "--resume" not in options and "--no-card" not in options
    pairs, rest = {}, iter(options)
    for option in rest:
        name = option.removeprefix("--").replace("-", "_")
        pairs[name] = True if name == "bf16" else next(rest)
    assert TrainSettings.from_options(pairs) == settings


# The hub


@pytest.fixture
def online(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_what_cannot_be_pushed(classifier, work, tmp_path, monkeypatch):
    vector = tmp_path / "vec.safetensors"
    vector.write_bytes(classifier[0].read_bytes())
    assert "no safetensors file" in refused(push, work / "reviews.csv", "a/b")
    assert "'a//b' is no id of the hub" in refused(push, vector, "a//b")
    assert "HF_HUB_OFFLINE is set" in refused(push, vector, "a/b", error=WorkFailed)
    card_beside(vector).write_text(card_beside(classifier[0]).read_text().replace("SHA-256 ", "SHA-256 " + "0" * 64))
    assert "is the card of another file" in refused(push, vector, "a/b")


def test_nobody_is_logged_in(classifier, online, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "nobody is logged in to the hub" in refused(push, classifier[0], "a/b")


def test_what_cannot_be_pulled(tmp_path):
    assert "is no id of the hub" in refused(pull, "a b", tmp_path / "v.safetensors")
    assert "HF_HUB_OFFLINE is set" in refused(pull, "a/b", tmp_path / "v.safetensors", error=WorkFailed)
    assert "there is no folder" in refused(pull, "a/b", tmp_path / "no" / "v.safetensors")
    assert list(tmp_path.iterdir()) == []


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a push and a pull ask for."""

    files: dict[str, bytes] = {}  # noqa: RUF012  of one test

    def do_HEAD(self):
        name = self.path.partition("/resolve/main/")[2]
        if name not in self.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.files[name])))
            self.send_header("ETag", f'"{hashlib.sha256(self.files[name]).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.files.get(self.path.partition("/resolve/")[2].partition("/")[2], b""))

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if "/preupload/" in self.path:
            asked = json.loads(content)["files"]
            answer = {
                "files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            }
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = b64decode(line["value"]["content"])
            answer = {"commitOid": "0" * 40, "commitUrl": "https://huggingface.co/a/b/commit/0"}
        else:
            answer = {"url": "https://huggingface.co/a/b", "repoUrl": "https://huggingface.co/a/b"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_what_is_pushed_is_pulled_and_nothing_else_takes_its_place(classifier, tmp_path):
    """Through the hub's own library, in a process whose hub is a server here."""
    Hub.files = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    program = warmed("import huggingface_hub.constants, backends.torch.commands.hub", **environment)

    def command(*arguments):
        return program.run(module("backends.torch"), *arguments, env=os.environ | environment, timeout=120)

    vector, got = classifier[0], tmp_path / "got.safetensors"
    try:
        done = command("push", "--adapter", vector, "--to", "a/b")
        assert done.returncode == 0, done.stderr
        assert Hub.files == {"unilora.safetensors": vector.read_bytes(), "README.md": card_beside(vector).read_bytes()}
        done = command("pull", "--from", "a/b", "-o", got)
        assert done.returncode == 0, done.stderr
        assert got.read_bytes() == vector.read_bytes()
        assert card_beside(got).read_bytes() == card_beside(vector).read_bytes()
        Hub.files["other.safetensors"] = b"no adapter"
        done = command("pull", "--from", "a/b", "-o", got, "--file", "other.safetensors")
        assert done.returncode == 2 and "other.safetensors is no adapter" in done.stderr
        assert got.read_bytes() == vector.read_bytes()
        done = command("pull", "--from", "a/b", "-o", got, "--file", "none.safetensors")
        assert done.returncode == 2 and "there is no file none.safetensors in it" in done.stderr
    finally:
        server.shutdown()
        server.server_close()
