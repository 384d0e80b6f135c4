"""A server of many adapters on one base: requests for different adapters are answered by one run of one ONNX graph."""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime
import torch
from torch import nn

from backends.torch import attach
from export import export_onnx
from unilora_spec import load_adapter

torch.manual_seed(0)
base = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 2)).eval()
for number in range(3):  # drawn, not trained
    net = attach(base, rank=2, d=64, seed=7, targets=["0", "2"])
    with torch.no_grad():
        net.unilora.theta.normal_(std=0.5)
    net.save_adapter(f"{number}.safetensors")
    net.detach()

bank = [load_adapter(f"{number}.safetensors") for number in range(3)]
export_onnx(base, bank, {"input": torch.randn(2, 16)}, "bank.onnx", mode="bank", dynamic={"input": {0: "batch"}})
options = onnxruntime.SessionOptions()
options.log_severity_level = 3  # else it warns of each input that has a default, such as the bank
session = onnxruntime.InferenceSession("bank.onnx", options)


class Handler(BaseHTTPRequestHandler):
    """POST {"adapters": [a number for each row], "rows": […]} gives {"answers": […]}."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        feeds = {"input": np.array(asked["rows"], np.float32), "adapter": np.array(asked["adapters"], np.int64)}
        (answers,) = session.run(None, feeds)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"answers": [[round(x, 3) for x in row] for row in answers.tolist()]}).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
asked = {"adapters": [0, 1, 2], "rows": [[0.5] * 16] * 3}  # the same row for each of three adapters
with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}", json.dumps(asked).encode()) as reply:
    for number, answer in enumerate(json.load(reply)["answers"]):
        print(f"adapter {number} answers {answer}")
server.shutdown()
