"""
One training run on several processes, which torchrun starts.

    torchrun --nproc_per_node=8 train.py configs/gsm8k.py                      # eight GPUs of one machine
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 train.py configs/gsm8k.py

The data and out_dir have to be where all machines find them. Each process has the whole model and takes every size-th
example of a step; the gradients are averaged. Settings mean the same as for one process: batch_size is that of all of
them together.

--speed=shard is for models whose optimizer is too large for one GPU: between two steps each process keeps its part only
of weights, gradients and moments (FSDP2). The weights are put together once a step and not for every pass, since
processes may differ in their numbers of passes: the longest thinking of their examples decides.
"""

import os
import sys
from contextlib import contextmanager, nullcontext

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import checkpoint
import data
from config import UserError
from evaluate import precision
from train import take_step


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


def add(x):
    """The sum of a tensor over all processes, on each of them."""
    dist.all_reduce(x)
    return x


def largest(number, device):
    """The largest of the processes' numbers, on each of them."""
    number = torch.tensor(number, device=device)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def gradient_norm(objective, limit):
    """The norm of the whole gradient, which is scaled down to `limit` if that is not 0."""
    parameters = list(objective.parameters())
    if limit:
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    else:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def gather_first(model, gathering, plain):
    """A method that puts the weights together, but only if they are apart.

    Else gradients would be exchanged, and forgotten, as soon as they reach the method's input: a shared past, thoughts
    that are given.
    """

    def call(*args, **settings):
        apart = hasattr(next(model.parameters()), "full_tensor")
        return gathering(*args, **settings) if apart else plain(*args, **settings)

    return call


class Team(checkpoint.Alone):
    def __init__(self):
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = "cpu"
        if self.rank > 0:  # only the first prints
            sys.stdout = open(os.devnull, "w")

    def start(self, device):
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        self.device = device
        return device

    def stop(self):
        """All at the same time: one that is left alone may be aborted although it has ended."""
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    def share(self, items):
        return items[self.rank :: self.size]

    def gather(self, items):
        """In the old order, on every process: lists of objects that can be pickled."""
        parts = [None] * self.size
        dist.all_gather_object(parts, items)
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def any_of(self, flag):
        return bool(add(torch.tensor(int(flag), device=self.device)))

    def wrap(self, objective, speed=()):
        if "shard" not in speed:
            unused = len(list(objective.parameters())) > len(list(objective.model.base.parameters()))
            return DistributedDataParallel(objective, find_unused_parameters=unused)  # not every step thinks
        if objective.own_state():
            raise UserError("this method trains something of its own, which --speed=shard does not spread")
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # slow to import, seldom needed

        model = objective.model
        mesh = dist.device_mesh.init_device_mesh(next(model.parameters()).device.type, (self.size,))
        for module in (*model.base.h, model):
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
        model.set_reshard_after_backward(False)
        for name in ("think", "generate", "embed", "mix"):  # of these one is called first
            plain = getattr(model, name)
            register_fsdp_forward_method(model, name)
            setattr(model, name, gather_first(model, getattr(model, name), plain))
        return objective

    def states(self, objective, optimizer):
        """Whole; all processes have to call this together."""
        model = objective.model
        if not is_sharded(model):
            return super().states(objective, optimizer)
        from torch.distributed.checkpoint import state_dict

        options = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
        return state_dict.get_state_dict(model, optimizer, options=options)

    def load_optimizer(self, objective, optimizer, state):
        """The counterpart for the optimizer; a model is loaded before it is sharded."""
        if not is_sharded(objective.model):
            super().load_optimizer(objective, optimizer, state)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(objective.model, optimizer, state, options=options)

    def train_step(self, objective, optimizer, rows, cfg):
        """train.train_step for several: each takes its share of the rows, and all end with the same weights."""
        device, plain = next(objective.parameters()).device, getattr(objective, "module", objective)  # DDP's wrapping
        weights, share = plain.weights, self.share(rows)
        micros = [data.collate(micro, device) for micro in data.micro_batches(share, cfg)] if share else []
        # Every process must run equally many backward passes, or DDP hangs: who has fewer repeats a row that counts 0.
        n_own, n_all = len(micros), largest(len(micros), device)
        micros += [data.collate(rows[:1], device)] * (n_all - n_own)
        counts = [plain.counts(micro) for micro in micros[:n_own]]
        counts = torch.tensor([sum(int(c[name]) for c in counts) for name in weights], device=device)
        counts = dict(zip(weights, add(counts).clamp(min=1)))  # of all micro-batches of all processes
        total = torch.zeros(len(weights), device=device)
        for i, micro in enumerate(micros):
            with backward(objective, last=i == n_all - 1):
                with precision(cfg, device):
                    losses = objective(micro)
                means = torch.stack([losses[name] / counts[name] for name in weights]) * (i < n_own)
                loss = sum(weight * mean for weight, mean in zip(weights.values(), means))
                (loss * self.size).backward()  # DDP takes the mean over the processes, where their sum is wanted
            total = total + means.detach()
        total = dict(zip(weights, add(total)))
        total = {"loss": sum(weights[name] * value for name, value in total.items()), **total}
        take_step(optimizer, total["loss"], gradient_norm(objective, cfg.grad_clip))
        return total
