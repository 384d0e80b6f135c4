"""What each process of test_scale.py runs, with the variables of torchrun: all of PARTS, as starting takes longer than they do."""

import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from torch import distributed
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from backends.torch import attach

RANK = int(os.environ.get("RANK", "0"))
STEPS = 4


def network(**options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    return attach(model, rank=2, d=60, targets=("query", "value"), train_in_full=("classifier",), bound=1.0, **options)


def rows(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 50, (8, 7), generator=generator), torch.randint(0, 2, (8,), generator=generator)


def trained(model, part, wrapped=None, parts=1):
    """θ after some steps of SGD on ``part`` of every batch, which is gone through in so many ``parts``."""
    run = wrapped or model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(STEPS):
        ids, labels = (tensor[part].chunk(parts) for tensor in rows(step))
        optimizer.zero_grad()
        for number in range(parts):
            last = number == parts - 1
            with nullcontext() if last or not isinstance(run, DistributedDataParallel) else run.no_sync():
                (run(input_ids=ids[number], labels=labels[number]).loss / parts).backward()
        optimizer.step()
    theta = model.unilora.theta.detach()
    return theta.full_tensor() if hasattr(theta, "full_tensor") else theta


def ddp(folder):
    """θ of every way to use DDP, and how many floats each step's reductions carried."""
    own, results = slice(RANK, None, 2), {"one": trained(network(), slice(None)), "start": network().unilora.theta.data}
    for name, options, parts, checkpointing in (
        ("plain", {}, 1, False),
        ("accumulated", {}, 2, False),
        ("static graph", {"static_graph": True}, 1, False),
        ("checkpointed", {}, 1, True),
    ):
        model, counts = network(), []
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.train()

        def count(_, bucket, counts=counts):
            counts.append(bucket.buffer().numel())
            future = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
            return future.then(lambda future: future.value()[0] / 2)

        wrapped = DistributedDataParallel(model, **options)
        wrapped.register_comm_hook(None, count)
        results[name], results[f"{name}, floats"] = trained(model, own, wrapped, parts), counts
    return results


def sharded(policy=None):
    model = network()
    for layer in model.bert.encoder.layer:
        fully_shard(layer, **({"mp_policy": policy} if policy else {}))
    return fully_shard(model)


def fsdp(folder):
    """θ trained on a sharded base in every way, what evaluations between steps see, and a file."""
    own, results = slice(RANK, None, 2), {"one": trained(network(), slice(None)), "start": network().unilora.theta.data}
    model = sharded()
    results["shard"] = model.bert.encoder.layer[0].output.dense.weight.to_local().numel()
    results["state"] = sorted(model.state_dict())
    results["plain"] = trained(model, own)
    model.save_adapter(folder / f"fsdp-{RANK}.safetensors")
    model = sharded()
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    results["checkpointed"] = trained(model, own)
    results["bfloat16"] = trained(sharded(MixedPrecisionPolicy(torch.bfloat16, output_dtype=torch.float32)), own)
    for name, model in (("evaluated", sharded()), ("evaluated by one", network())):
        optimizer = torch.optim.SGD([model.unilora.theta], lr=0.5)
        ids, labels = rows(0)
        results[name] = []
        for _ in range(3):
            with torch.no_grad():
                results[name].append(model.eval()(input_ids=ids).logits)
            model.train()(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return results


def trains(folder):
    """``train`` with each settings of a file; what it reports, θ and the head. The signal comes to the last process alone."""
    from backends.settings import TrainSettings
    from backends.torch.training import train as module

    plain, models = module.make_trainer, []

    class Signal(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if RANK == 1 and state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    def make_trainer(model, *arguments):
        models.append(model)
        trainer = plain(model, *arguments)
        if name == "stopped":
            trainer.add_callback(Signal())
        return trainer

    module.make_trainer = make_trainer
    results = {}
    for name, settings in json.loads((folder / "settings.json").read_text()).items():
        try:
            results[name] = module.train(TrainSettings(**settings)) | {"state": models[-1].state_dict()}
        except module.Stopped as stopped:
            results[name] = str(stopped)
    return results


PARTS = (trains, ddp, fsdp)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    results = {}
    for part in PARTS:
        if part in (ddp, fsdp) and not distributed.is_initialized():
            distributed.init_process_group("gloo")
        results[part.__name__] = part(folder)
    torch.save(results, folder / f"results-{RANK}.pt")
    distributed.destroy_process_group()
