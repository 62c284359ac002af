"""The kernel never holds the score matrix: peak memory is far below it, and the numbers are those of float64 blocks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

N, D = 12_288, 32

# A process of its own, because only the peak of a whole process can be read.
SCRIPT = f"""
import json, resource, torch
from pipa import functional as F
torch.set_num_threads(1)
torch.manual_seed(0)
feat = torch.randn({N}, {D}, requires_grad=True)
label = torch.arange({N}) % 19
F.contrast(feat[:64], feat[:64].clone(), (label[:64], label[:64])).backward()
feat.grad = None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss = F.contrast(feat, feat, (label, label), exclude_self=True)
loss.backward()
extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([loss.item(), float(feat.grad.double().pow(2).sum()), extra * 1024]))
"""


def by_blocks() -> tuple[float, float]:
    """Loss and squared gradient norm in float64 by autograd over blocks of rows."""
    torch.manual_seed(0)
    feat = torch.randn(N, D).double().requires_grad_()
    label = torch.arange(N) % 19
    unit = torch.nn.functional.normalize(feat, dim=1)
    leaf = unit.detach().requires_grad_()
    number = torch.bincount(label)[label] - 1
    total = 0.0
    for i in range(0, N, 1024):
        rows = slice(i, i + 1024)
        score = leaf[rows] @ leaf.T / 0.1
        own = torch.arange(i, i + len(score))[:, None]
        masked = score.scatter(1, own, float("-inf"))
        positive = (label[rows, None] == label).scatter(1, own, False)
        loss = (masked.logsumexp(1) - (score * positive).sum(1) / number[rows]).sum() / N
        loss.backward()
        total += loss.item()
    unit.backward(leaf.grad)
    assert feat.grad is not None
    return total, float(feat.grad.pow(2).sum())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_memory_and_values_at_twelve_thousand() -> None:
    out = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    loss, norm, extra = json.loads(out.stdout)
    assert extra < 4 * N * N / 3, f"{extra / 1e6:.0f} MB"
    expected_loss, expected_norm = by_blocks()
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert norm == pytest.approx(expected_norm, rel=1e-4)
