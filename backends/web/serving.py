"""The server of the page, which gives files, and only to browsers on this machine."""

import json
import mimetypes
import shutil
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from unilora_spec import UniLoraError, load_adapter
from unilora_spec.base_folder import base_folder

ROOT = Path(__file__).parents[2]
PAGE = "/backends/web/page/"
LIBRARY = "/conformance_tests/examples/unilora.mjs"
"""The address of SPEC.md's arithmetic: that of the checkout, so that the page's imports are the same in a browser and
in node."""
TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
HEADERS = {
    # Both together let pages share memory among threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    # Nothing is loaded from elsewhere, and nothing is sent there.
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' blob: 'wasm-unsafe-eval'; style-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass
class Given:
    """The files and fields with which the page opens.

    ``files``   each by its role in the page (graph, adapter, tokenizer, configuration, table)
    ``fields``  the contents of fields, by their ids in index.html
    """

    files: dict[str, Path] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)

    def listing(self) -> bytes:
        """The content of given.json: a name and an address of each file, and the fields."""
        files = {role: {"name": path.name, "url": f"/given/{role}"} for role, path in self.files.items()}
        return json.dumps(files | {"fields": self.fields}).encode()


def given(graph: Path | None, base: Path | None, data: Path | None, fields: dict[str, str]) -> Given:
    """The files of a step graph and of a table of examples, each of which may be None.

    The adapter is beside the graph, and tokenizer.json in ``base`` or in the folder that the adapter names. Raises
    ``UniLoraError`` where one of them is missing.
    """
    found = {}
    if graph:
        adapter = graph.with_suffix(".safetensors")
        for path, mend in (
            (graph, "make it by python -m export onnx --mode step"),
            (adapter, "the exporter writes it beside the graph; put both into one folder"),
        ):
            if not path.is_file():
                raise UniLoraError(f"{path} is not there; {mend}")
        tokenizer = base_folder(load_adapter(adapter), base) / "tokenizer.json"
        if not tokenizer.is_file():
            raise UniLoraError(f"{tokenizer} is not there; give --base a folder with the tokenizer.json of the base")
        found |= {"graph": graph, "adapter": adapter, "tokenizer": tokenizer}
        if (configuration := tokenizer.with_name("tokenizer_config.json")).is_file():
            found["configuration"] = configuration
    if data:
        if not data.is_file():
            raise UniLoraError(f"{data} is not there; give --data a .csv or .tsv file")
        found["table"] = data
    return Given(found, fields)


def server(given: Given, packages: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 at ``port``, or at a free one where it is 0; ``packages`` is npm's folder node_modules.

    Raises ``UniLoraError`` where the packages are not there, and ``OSError`` where the port is taken.
    """
    if not (packages / "onnxruntime-web").is_dir():
        raise UniLoraError(
            f"{packages}: the page's packages are not there; run make web, which fetches them once, or npm ci with the"
            " package.json of backends/web, and give --packages its node_modules"
        )
    folders = {PAGE: ROOT / PAGE.strip("/"), "/packages/": packages}
    files = {LIBRARY: ROOT / LIBRARY.strip("/")} | {f"/given/{role}": path for role, path in given.files.items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            if self.headers.get("Host") not in hosts:  # a foreign name that resolves to this machine
                self.answer(HTTPStatus.FORBIDDEN, b"", "text/plain")
            elif path == "/":
                self.answer(HTTPStatus.FOUND, b"", "text/plain", Location=PAGE)
            elif path == "/given.json":
                self.answer(HTTPStatus.OK, given.listing(), "application/json")
            elif file := file_at(path):
                self.send(file)
            else:
                self.answer(HTTPStatus.NOT_FOUND, b"", "text/plain")

        def answer(self, status, content, kind, **headers):
            self.begin(status, len(content), kind, **headers)
            self.wfile.write(content)

        def send(self, file):
            kind = TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            with file.open("rb") as source:
                self.begin(HTTPStatus.OK, file.stat().st_size, kind)
                shutil.copyfileobj(source, self.wfile, 2**20)

        def begin(self, status, length, kind, **headers):
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": length, **HEADERS, **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()

        def log_message(self, *arguments):
            """Logs nothing, so that the address stays visible on the terminal."""

    def file_at(path) -> Path | None:
        if path in files:
            return files[path]
        for prefix, folder in folders.items():
            if path.startswith(prefix):
                file = (folder / (path.removeprefix(prefix) or "index.html")).resolve()
                return file if file.is_relative_to(folder.resolve()) and file.is_file() else None
        return None

    made = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    hosts = {f"{name}:{made.server_port}" for name in ("127.0.0.1", "localhost")}
    return made
