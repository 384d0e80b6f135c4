"""Greedy tokens of vLLM, without a LoRA and with it, and the log-probability of each. vllm_lora.py calls this in vLLM's own environment:

python tests/runtimes/in_vllm.py BASE LORA TOKENS ANSWER    the tokens of the prompt and the answer as JSON, the latter a file
"""

import json
import sys
import time
from pathlib import Path


def main(base, lora, tokens, answer):
    import vllm
    from vllm.lora.request import LoRARequest

    begin = time.perf_counter()
    engine = vllm.LLM(
        model=base, enable_lora=True, max_lora_rank=8, dtype="float32", skip_tokenizer_init=True, enforce_eager=True,
        max_model_len=128, max_num_seqs=2,
    )  # fmt: skip
    result = {"vllm": vllm.__version__, "start": time.perf_counter() - begin, "runs": []}
    wanted = vllm.SamplingParams(temperature=0, max_tokens=20, logprobs=1, ignore_eos=True, detokenize=False)
    for request in (None, LoRARequest("vec", 1, lora)):
        output = engine.generate([{"prompt_token_ids": json.loads(tokens)}], wanted, lora_request=request)[0].outputs[0]
        chosen = list(output.token_ids)
        logprobs = [float(each[token].logprob) for token, each in zip(chosen, output.logprobs, strict=True)]
        result["runs"].append({"tokens": chosen, "logprobs": logprobs})
    Path(answer).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
