"""A NaN is caught where it is made, its batch is kept, and the training stops or goes on without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import tiny
from pipa import NonFiniteError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"))


@HOOKS.register_module()
class PoisonHook(Hook):
    """Makes NaN in the source images, or in a gradient that comes from a finite loss, at some iterations."""

    def __init__(self, where: str, at: list[int]) -> None:
        self.where, self.at = where, at

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx not in self.at:
            return
        if self.where == "image":
            data_batch["inputs"] = [i.float() * float("nan") for i in data_batch["inputs"]]
        else:
            weight = runner.model.decode_head.conv_seg.weight
            self.handle = weight.register_hook(self.spoil)

    def spoil(self, gradient: torch.Tensor) -> torch.Tensor:
        self.handle.remove()
        return gradient * float("inf")


def config(root: Path, work: Path, where: str, at: list[int], **kwargs: Any) -> dict[str, Any]:
    cfg = tiny.config(root, work, **kwargs)
    cfg["custom_hooks"].append(dict(type="PoisonHook", where=where, at=at))
    return cfg


def test_stop_names_term_iteration_and_files_and_keeps_the_batch(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as caught:
        tiny.train(config(root, tmp_path, "image", [2], iterations=4))
    dump = tmp_path / "nonfinite_iter_2.pt"
    message = str(caught.value)
    assert "iteration 2: the term 'source' is NaN" in message
    assert "source/images/" in message
    assert "target/images/" in message
    assert str(dump) in message
    kept = torch.load(dump, weights_only=True)
    assert kept["iteration"] == 2
    assert kept["source"][..., :48, :48].isnan().all()
    assert kept["target"].isfinite().all()
    assert kept["source_label"].shape == kept["source"].shape[:1] + kept["source"].shape[2:]
    assert len(kept["files"]) == 4
    # The checkpoint before it is whole: the training goes on from there, once the cause is gone.
    resumed = tiny.train(tiny.config(root, tmp_path, iterations=3), resume=True)
    straight = tiny.train(tiny.config(root, tmp_path / "straight", iterations=3))
    assert not tiny.differences(tiny.everything(straight), tiny.everything(resumed))


def test_gradients_of_a_finite_loss_are_checked(root: Path, tmp_path: Path) -> None:
    cfg = config(root, tmp_path, "gradient", [1], iterations=2)
    with pytest.raises(NonFiniteError, match=r"iteration 1: the backward pass of source \+ pixel \+ feature_distance"):
        tiny.train(cfg)


@pytest.mark.parametrize("where", ["image", "gradient"])
def test_skip_leaves_no_trace(where: str, root: Path, tmp_path: Path) -> None:
    cfg = config(root, tmp_path / "w", where, [2], iterations=4, nonfinite="skip", pixel_memory_bank=16)
    done = tiny.train(cfg)
    state = tiny.everything(done)
    assert tiny.pipa_hook(done).guard.skipped == 1
    assert state["iteration"] == (4, 4)
    for name in ("student", "teacher"):
        assert all(value.isfinite().all() for value in state[name].values()), name
    assert all(part.isfinite().all() for part in state["bank"])
    moments = state["optimizer"]["state"].values()
    assert {int(m["step"]) for m in moments} == {3, 1}  # three good iterations, one of them with the patch term
    assert all(m["exp_avg_sq"].isfinite().all() for m in moments)
    # The count survives a resume, and so does the result.
    again = tiny.train({**cfg, "work_dir": str(tmp_path / "b")}, resume=True, load_from=tmp_path / "w" / "iter_3.pth")
    assert tiny.pipa_hook(again).guard.skipped == 1
    assert not tiny.differences(state, tiny.everything(again))


def test_too_many_skips_in_a_row_stop(root: Path, tmp_path: Path) -> None:
    cfg = config(root, tmp_path, "image", [1, 2, 3], iterations=6, nonfinite="skip", nonfinite_limit=3)
    with pytest.raises(NonFiniteError, match=r"3 iterations in a row were skipped, .* of: iteration 3"):
        tiny.train(cfg)
    assert len(list(tmp_path.glob("nonfinite_iter_*.pt"))) == 3


def test_unknown_policy() -> None:
    from pipa.mmseg.engine.nonfinite_guard import NonFiniteGuard

    with pytest.raises(ValueError, match="nonfinite: expected 'stop' or 'skip', got 'ignore'"):
        NonFiniteGuard("ignore", 10)
