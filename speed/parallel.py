"""
One training run on several processes, which torchrun starts. Without torchrun there is one, and all this does nothing.

    torchrun --nproc_per_node=8 train.py configs/gsm8k.py                      # eight GPUs of one machine
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 train.py configs/gsm8k.py

The data and out_dir have to be where all machines find them. Each process has the whole model and takes every WORLD-th
example of a step; the gradients are averaged. Settings mean the same as for one process: batch_size is that of all of
them together.

--shard is for models whose optimizer is too large for one GPU: between two steps each process keeps its part only of
weights, gradients and moments (FSDP2). The weights are put together once a step and not for every pass, since processes
may differ in their numbers of passes: the longest thinking of their examples decides.
"""

import os
import sys
from contextlib import contextmanager, nullcontext

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def quiet():
    """From here on only the first process prints; an error, on stderr, is said by each that has it."""
    if RANK > 0:
        sys.stdout = open(os.devnull, "w")


def start(device):
    """Join the other processes; returns the device of this one."""
    if WORLD == 1:
        return device
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def stop():
    """Leave the other processes, all at the same time: one that is left alone may be aborted although it has ended."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def wrap(objective, shard):
    """An Objective (losses.py) as train_step calls it."""
    if WORLD == 1:
        return objective
    if not shard:
        own = any(name.startswith(objective.model.OWN) for name, _ in objective.model.named_parameters())
        parts = len(objective.parts) > 0
        return DistributedDataParallel(objective, find_unused_parameters=own or parts)  # not every step thinks
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # slow to import, and seldom needed

    model = objective.model
    mesh = dist.device_mesh.init_device_mesh(next(model.parameters()).device.type, (WORLD,))
    for module in (*model.h, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=False)
    model.set_reshard_after_backward(False)
    for name in ("think", "generate"):
        register_fsdp_forward_method(model, name)
    return objective


def is_sharded(model):
    return hasattr(model, "reshard")  # fully_shard has made it an FSDPModule


@contextmanager
def backward(objective, last):
    """In here goes a backward pass; processes exchange their gradients in the last one of a step only."""
    if isinstance(objective, DistributedDataParallel):
        with nullcontext() if last else objective.no_sync():
            yield
    elif is_sharded(objective.model):
        objective.model.set_requires_gradient_sync(last)
        yield
        for module in objective.modules() if last else ():
            if is_sharded(module):
                module.reshard()  # what the optimizer changes are the parts
    else:
        yield


def gradient_norm(objective, limit):
    """The norm of the whole gradient, which is scaled down to `limit` if that is not 0."""
    parameters = list(objective.parameters())
    if limit:
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    else:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def state_dicts(objective, optimizer, moments):
    """(weights of the model, moments of the optimizer or None), whole; all processes have to call this together."""
    model = objective.model
    if not is_sharded(model):
        return model.state_dict(), optimizer.state_dict() if moments else None
    from torch.distributed.checkpoint import state_dict

    options = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
    if moments:
        return state_dict.get_state_dict(model, optimizer, options=options)
    return state_dict.get_model_state_dict(model, options=options), None


def load_optimizer(objective, optimizer, state):
    """The counterpart for the optimizer; a model is loaded before it is sharded."""
    if not is_sharded(objective.model):
        return optimizer.load_state_dict(state)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True)
    return set_optimizer_state_dict(objective.model, optimizer, state, options=options)


def share(items):
    """This process's share of a list: every WORLD-th item."""
    return items[RANK::WORLD]


def gather(items):
    """What share() has dealt out, in the old order again and on every process: lists of objects that can be pickled."""
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


def largest(number, device):
    """The largest of the processes' numbers, on each of them."""
    if WORLD == 1:
        return number
    dist.all_reduce(number := torch.tensor(number, device=device), dist.ReduceOp.MAX)
    return int(number)


def any_of(flag, device):
    """Whether any process says so: they have to agree before they stop or save, or some would wait for ever."""
    return bool(add(torch.tensor(int(flag), device=device))) if WORLD > 1 else flag
