"""PipaStep in a LightningModule, on one device or several.

    python examples/lightning_training.py
    python examples/lightning_training.py --devices 2

The module optimises by hand (`automatic_optimization = False`), because one iteration has several backward passes. The
step is part of the module, so Lightning's checkpoints hold teacher, projection heads and random state. With several
processes the losses are those of the joined batch, and the step averages the gradients in place of Lightning's wrapper.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from pipa import PipaStep
from toy_pair import SETTINGS, Labelled, Unlabelled, network


class Adaptation(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.student = network()

    def configure_model(self) -> None:
        """Once the processes are there."""
        if hasattr(self, "step"):
            return
        wrapped = DistributedDataParallel(self.student) if distributed.is_initialized() else self.student
        self.step = PipaStep(wrapped, backward=self.manual_backward, **SETTINGS)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([*self.student.parameters(), *self.step.head_parameters()], lr=1e-3)

    def training_step(self, batch: dict[str, Any], index: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        image, label = batch["source"]
        log = self.step(image, label, batch["target"])
        optimizer.step()
        self.log_dict(log, prog_bar=False)


class JoinedBatch(DDPStrategy):
    """Processes without Lightning's wrapper around the module."""

    def configure_ddp(self) -> None:
        pass


def train(iterations: int, batch_size: int, out: Path, devices: int, resume: bool, accelerator: str) -> Adaptation:
    loaders = {
        name: DataLoader(data, batch_size, shuffle=True, drop_last=True)
        for name, data in (("source", Labelled(64)), ("target", Unlabelled(64)))
    }
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy=JoinedBatch() if devices > 1 else "auto",
        max_steps=iterations,
        default_root_dir=out,
        log_every_n_steps=10,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    module = Adaptation()
    trainer.fit(module, loaders, ckpt_path=str(out / "last.ckpt") if resume else None)
    trainer.save_checkpoint(out / "last.ckpt")
    if trainer.is_global_zero:
        print({name: round(float(v), 3) for name, v in trainer.callback_metrics.items() if name.startswith("loss")})
        module.step.teacher.save_pretrained(out / "adapted")
    return module


def main() -> Adaptation:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=2, help="of each process")
    parser.add_argument("--out", type=Path, default=Path("lightning_run"))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--resume", action="store_true", help="go on from --out")
    a = parser.parse_args()
    return train(a.iterations, a.batch_size, a.out, a.devices, a.resume, a.accelerator)


if __name__ == "__main__":
    main()
