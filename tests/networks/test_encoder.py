"""Which parameters count as the encoder's, when gradient norms are logged."""

from __future__ import annotations

import torch
from helpers.small_nets import SmallNet, small_batch, small_step

from pipa.networks.encoder import encoder_parameters


def names(student: SmallNet, weights: list[torch.Tensor]) -> set[str]:
    known = {id(p): name for name, p in student.named_parameters()}
    return {known[id(p)] for p in weights}


def test_the_head_is_left_out_of_a_compiled_network_too() -> None:
    student, step = small_step()
    expected = {name for name, _ in student.named_parameters() if not name.startswith("classifier")}
    assert names(student, encoder_parameters(step.networks, student)) == expected
    # Compiled whole, the network is one node of autograd's graph, above which its head lies too.
    student.compile(backend="aot_eager")
    statistics = {name: b.clone() for name, b in student.named_buffers()}
    assert names(student, encoder_parameters(step.networks, student)) == expected
    assert all(torch.equal(b, statistics[name]) for name, b in student.named_buffers())


def test_a_frozen_encoder_has_no_norm() -> None:
    student, step = small_step(pixel_weight=0.0, patch_weight=0.0)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    log = step(*small_batch(), log_gradients=True)
    assert float(log["grad_norm_source"]) > 0
    assert not any(name.startswith("encoder_grad_norm") for name in log)
