"""Write the embedded Fashion-MNIST images as PNG files: train and test, one folder per class.

python examples/tutorial/make_images.py clothes
"""

import sys
from pathlib import Path

from PIL import Image

from fggp_deploy import data

root = Path(sys.argv[1])
dataset = data.load()
for name, part in (("train", dataset.train), ("test", dataset.test)):
    for i, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
        folder = root / name / dataset.classes[label].replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(folder / f"{i:05}.png")
print(f"{len(dataset.train)} training and {len(dataset.test)} test images in {root}")
