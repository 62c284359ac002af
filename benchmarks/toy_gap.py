"""The gap of the toy pair: the same small network trained on source labels and on target labels, tested on the target.

    python benchmarks/toy_gap.py --iterations 1000 --seeds 0 1 2

Plain PyTorch, no pretraining, no adaptation: the difference is what adaptation can win. About 75 s per training on one
core; prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipa import toy
from pipa.functional import confusion_matrix

CROP, BATCH, RATE = 128, 4, 2e-3
Pairs = tuple[Tensor, Tensor]


def pairs(domain: str, first: int, count: int) -> Pairs:
    """Images uint8 [N,3,H,W] and labels uint8 [N,H,W]."""
    drawn = [toy.draw(domain, first + i) for i in range(count)]
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.stack([label for _, label in drawn]))


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Network(nn.Module):
    """Four stages at strides 4 to 32, joined at stride 4; 0.36 M parameters."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 64, 96)) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, widths[0] // 2, 2), block(widths[0] // 2, widths[0], 2))
        self.down = nn.ModuleList(
            nn.Sequential(block(widths[i], widths[i + 1], 2), block(widths[i + 1], widths[i + 1])) for i in range(3)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, 48, 1) for width in widths)
        self.fuse = block(4 * 48, 64)
        self.classify = nn.Conv2d(64, len(toy.CLASSES), 1)

    def forward(self, image: Tensor) -> Tensor:
        features = [self.stem(image)]
        for down in self.down:
            features.append(down(features[-1]))
        size = features[0].shape[-2:]
        joined = [
            F.interpolate(lateral(feature), size=size, mode="bilinear", align_corners=False)
            for lateral, feature in zip(self.lateral, features, strict=True)
        ]
        logits = self.classify(self.fuse(torch.cat(joined, 1)))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def normalize(image: Tensor) -> Tensor:
    return (image.float() / 255 - 0.45) / 0.25


def train(data: Pairs, iterations: int, seed: int) -> Network:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    images, labels = data
    for i in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (i + 1) / 50) * (1 - i / iterations)
        chosen, left = rng.integers(0, len(images), BATCH), rng.integers(0, images.shape[3] - CROP + 1)
        image, label = images[chosen, :, :, left : left + CROP], labels[chosen, :, left : left + CROP]
        if rng.random() < 0.5:
            image, label = image.flip(3), label.flip(2)
        loss = F.cross_entropy(network(normalize(image)), label.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def class_iou(network: Network, data: Pairs) -> list[float]:
    classes = len(toy.CLASSES)
    total = torch.zeros(classes, classes, dtype=torch.int64)
    for image, label in zip(data[0].split(8), data[1].split(8), strict=True):
        total += torch.as_tensor(confusion_matrix(network(normalize(image)).argmax(1), label.long(), classes))
    hit = total.diag().double()
    return (100 * hit / (total.sum(0) + total.sum(1) - hit)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--images", type=int, default=300, help="training images per domain")
    parser.add_argument("--val", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    test = pairs("target", toy.VAL_FIRST, options.val)
    print(f"| trained on | seed | {' | '.join(toy.CLASSES)} | mIoU |\n|{'---|' * (len(toy.CLASSES) + 3)}")
    means: dict[str, list[float]] = {}
    for domain in toy.DOMAINS:
        data = pairs(domain, 0, options.images)
        for seed in options.seeds:
            ious = class_iou(train(data, options.iterations, seed), test)
            means.setdefault(domain, []).append(statistics.mean(ious))
            print(
                f"| {domain} | {seed} | {' | '.join(f'{v:.0f}' for v in ious)} | {means[domain][-1]:.1f} |", flush=True
            )
    source, target = (statistics.mean(means[domain]) for domain in toy.DOMAINS)
    print(f"\nsource {source:.1f}, target {target:.1f}: gap {target - source:.1f} points")


if __name__ == "__main__":
    main()
