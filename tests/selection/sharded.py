"""The loop of docs/how-to.md with sharded weights (FSDP), for the processes of torchrun; prints what it made, as JSON."""

import json
import re
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from helpers import DATA, tensors, tiny_bert
from torch.distributed.fsdp import FSDPModule, fully_shard

HOW_TO = (Path(__file__).resolve().parents[2] / "docs/how-to.md").read_text(encoding="utf-8")


def trained(sharded):
    """Train a tiny BERT without dropout as the how-to tells, and return its last weights and the loader's report."""
    accelerator = Accelerator(cpu=True)
    model = tiny_bert()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # masks are each process's own
    if sharded:  # Accelerate takes FSDP on GPUs alone: this is what it calls there
        for layer in [*model.bert.encoder.layer, model]:
            fully_shard(layer)
    names = {
        "accelerator": accelerator,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "train": DATA * 4,
        "collate": tensors,
    }
    (lines,) = re.findall(r"```python\n((?:(?!```).)*accelerator\.gather.*?)```", HOW_TO, re.DOTALL)
    exec(lines.replace("clipped(0.5)", "clipped(1)"), names)
    weights = model.classifier.weight
    whole = weights.full_tensor() if isinstance(model, FSDPModule) else weights
    made = {
        "weights": whole.tolist(),
        "report": str(names["batches"].report),
        "processes": accelerator.num_processes,
    }
    accelerator.end_training()
    return made | {"first": accelerator.is_main_process}


if __name__ == "__main__":
    made = trained(sharded=True)
    if made["first"]:
        sys.stdout.write(json.dumps(made) + "\n")
