"""Greedy tokens of onnxruntime-genai's own loop. genai.py calls this in genai's own environment:

python tests/runtimes/in_genai.py REQUEST ANSWER    files of JSON

The request has "model", a folder; "adapters", files of .onnx_adapter by name; "order", whose adapter is on in each run, or null; "tokens" of
the prompt; and "count", how many are asked for.
"""

import json
import statistics
import sys
import time
from pathlib import Path


def main(request, answer):
    import numpy as np
    import onnxruntime_genai as og

    request = json.loads(Path(request).read_text())
    model = og.Model(request["model"])
    loaded, loads = og.Adapters(model), []
    for name, file in request["adapters"].items():
        begin = time.perf_counter()
        loaded.load(file, name)
        loads.append(time.perf_counter() - begin)

    def generator():
        settings = og.GeneratorParams(model)
        # The caches get so many places: no fewer than Gemma's window of 512, of which its layers keep the last tokens.
        settings.set_search_options(max_length=1024, do_sample=False)
        return og.Generator(model, settings)

    tokens, steps = [], []
    for name in request["order"]:
        run = generator()
        if name:
            run.set_active_adapter(loaded, name)
        run.append_tokens(np.array(request["tokens"], np.int32))
        each = []
        while not run.is_done() and len(each) < request["count"]:
            begin = time.perf_counter()
            run.generate_next_token()
            each.append(time.perf_counter() - begin)
        tokens.append([int(token) for token in run.get_sequence(0)][len(request["tokens"]) :])
        steps.append(statistics.median(each[1:]))
    switches = []
    for number in range(20 if loads else 0):
        run, names = generator(), list(request["adapters"])
        begin = time.perf_counter()
        run.set_active_adapter(loaded, names[number % len(names)])
        switches.append(time.perf_counter() - begin)
    result = {"genai": og.__version__, "tokens": tokens, "step": [1e3 * each for each in steps]}
    if loads:
        result |= {"load": 1e3 * statistics.median(loads), "switch": 1e3 * statistics.median(switches)}
        result["memory"] = another(loaded, next(iter(request["adapters"].values())))
    Path(answer).write_text(json.dumps(result))


def another(loaded, file, count=10) -> float:
    """Bytes of memory that one more adapter takes."""
    before = resident()
    for number in range(count):
        loaded.load(file, f"more{number}")
    return (resident() - before) / count


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main(*sys.argv[1:])
