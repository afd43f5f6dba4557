"""Training as you may have it: plain PyTorch, nothing from fggp-deploy.

python examples/tutorial/train.py clothes clothes.pth
"""

import sys
from pathlib import Path

import numpy as np
import torch
from net import make
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

folder, checkpoint = sys.argv[1:]
EPOCHS = 4
torch.manual_seed(0)
classes = sorted(p.name for p in Path(folder, "train").iterdir())
files = [(p, i) for i, c in enumerate(classes) for p in Path(folder, "train", c).iterdir()]
pixels = np.stack([np.asarray(Image.open(p), np.float32) / 255 for p, _ in files])
images = torch.from_numpy((pixels - 0.286) / 0.353).unsqueeze(1)
labels = torch.tensor([i for _, i in files])
loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True, drop_last=True)
net = make(len(classes))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=EPOCHS * len(loader))
for epoch in range(EPOCHS):
    for x, y in loader:
        loss = cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", flush=True)
torch.save({"state_dict": net.state_dict(), "epoch": EPOCHS}, checkpoint)
