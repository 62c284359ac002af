"""Checkpoints that were written on a GPU open on a machine without one, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipa.files.torch_file import host, load_plain


@pytest.fixture
def from_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose tensors say that they lay on a GPU."""
    path = tmp_path / "iter_2.pth"
    state = nn.Linear(2, 3).state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"state_dict": state, "pipa": {"bank": [torch.arange(4)]}, "meta": {}}, path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    return path


def test_own_reader(from_gpu: Path) -> None:
    content = load_plain(from_gpu)
    assert content["state_dict"]["weight"].device.type == "cpu"
    assert content["pipa"]["bank"][0].tolist() == [0, 1, 2, 3]


def test_readers_of_a_training(from_gpu: Path) -> None:
    """`load_from` and the loader behind a resume are mmengine's."""
    pytest.importorskip("mmengine")
    from mmengine.runner.checkpoint import load_checkpoint

    import pipa.mmseg
    from pipa.mmseg.checkpoints.read import read_checkpoint

    assert pipa.mmseg.__name__
    network = nn.Linear(2, 3)
    load_checkpoint(network, str(from_gpu), map_location="cpu")
    weights = read_checkpoint(from_gpu)["state_dict"]
    assert torch.equal(network.weight, weights["weight"])
    assert weights["weight"].device.type == "cpu"


def test_what_is_written_lies_on_the_host() -> None:
    """Other values than tensors stay what they are; tensors lose their graph."""
    nested = {"bank": [torch.ones(2, requires_grad=True), 3, ("text", None)]}
    stored = host(nested)
    assert not stored["bank"][0].requires_grad
    assert stored["bank"][1:] == [3, ("text", None)]
    assert stored["bank"][0].device.type == "cpu"
