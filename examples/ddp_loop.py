"""Prune a model that several processes train, in your own training loop.

torchrun --nproc-per-node 2 examples/ddp_loop.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fggp_deploy import FGGP, Cubic, Pruner, data

BATCH = 64  # per process


def main() -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    images = data.load()
    mine = slice(rank, None, world)
    x = torch.from_numpy(images.preprocessing(images.train.images[mine]))
    y = torch.from_numpy(images.train.labels[mine])
    model = DistributedDataParallel(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(),
            nn.Conv2d(16, 64, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
        )
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    n_steps = len(images.train) // (world * BATCH)

    pruner = Pruner(model, FGGP(rate=0.5), Cubic(0.9, steps=n_steps), optimizer=optimizer)
    for index in torch.arange(n_steps * BATCH).split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(model(x[index]), y[index]).backward()  # averages the gradients
        pruner.after_backward()  # raises if the masks of the processes differ
        optimizer.step()
        pruner.after_step()
    masks = pruner.finish()
    if rank == 0:
        print(f"removed {masks.n_removed} of {masks.n_total}, digest {masks.digest()[:16]}")


if __name__ == "__main__":
    dist.init_process_group("gloo")  # "nccl" if each process has a GPU
    main()  # a function, so that the model is deleted before its process group
    dist.destroy_process_group()
