"""Teacher update of the released code."""

from __future__ import annotations

import json

import pytest
import torch

from pipa import functional as F

NAMES = ["scalar", "0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("alpha", [0.99, 0.999])
def test_recorded_run(case, alpha, path):
    data = case(f"ema/ema_a{alpha}")
    teacher = [data[f"init_teacher.{n}"].clone().requires_grad_() for n in NAMES]
    F.ema_update(teacher, [data[f"init_student.{n}"] for n in NAMES], 0, alpha)
    assert all(torch.equal(t, data[f"t0.{n}"]) for t, n in zip(teacher, NAMES, strict=True))
    for k in (1, 2, 3, 4, 5):
        F.ema_update(teacher, [data[f"s{k}.{n}"].requires_grad_() for n in NAMES], k, alpha)
        for t, n in zip(teacher, NAMES, strict=True):
            torch.testing.assert_close(t.detach(), data[f"t{k}.{n}"], rtol=1e-6, atol=1e-8)
            assert t.grad_fn is None
            assert t.requires_grad


@pytest.mark.parametrize("alpha", [0.99, 0.999])
def test_weights(golden, alpha, path):
    table = json.loads((golden / "ema" / "README.json").read_text())["alpha_at_iter"][str(alpha)]
    for iteration, expected in table.items():
        teacher, student = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        F.ema_update([teacher], [student], int(iteration), alpha)
        torch.testing.assert_close(teacher, torch.full_like(teacher, expected), rtol=1e-12, atol=0)
