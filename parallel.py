"""
One training run on several processes, which torchrun starts. Without torchrun there is one, and all this does nothing.

    torchrun --nproc_per_node=8 train.py configs/gsm8k.py                      # eight GPUs of one machine
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 train.py configs/gsm8k.py

Each process has the whole model and takes every WORLD-th example of a step; the gradients are averaged. Settings mean
the same as for one process: batch_size is that of all of them together.
"""

import os
import sys

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def start(device):
    """Join the other processes; returns the device of this one. Only the first process prints."""
    if WORLD == 1:
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    if RANK > 0:
        sys.stdout = open(os.devnull, "w")
    return device


def wrap(model):
    """The model as train_step calls it."""
    return DistributedDataParallel(model) if WORLD > 1 else model


def mine(items):
    """This process's share of a list: every WORLD-th item."""
    return items[RANK::WORLD]


def gather(items):
    """What mine() has dealt out, in the old order again and on every process: lists of objects that can be pickled."""
    if WORLD == 1:
        return items
    parts = [None] * WORLD
    dist.all_gather_object(parts, items)
    return [parts[i % WORLD][i // WORLD] for i in range(sum(map(len, parts)))]


def add(x):
    """The sum of a tensor over all processes, on each of them."""
    if WORLD > 1:
        dist.all_reduce(x)
    return x


def any_of(flag, device):
    """Whether any process says so: they have to agree before they stop or save, or some would wait for ever."""
    return bool(add(torch.tensor(int(flag), device=device))) if WORLD > 1 else flag
