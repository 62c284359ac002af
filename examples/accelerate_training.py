"""PipaStep in a training loop of Hugging Face Accelerate, on one device or several.

    python examples/accelerate_training.py
    accelerate launch --num_processes 2 examples/accelerate_training.py
    accelerate launch --mixed_precision bf16 examples/accelerate_training.py

With several processes the losses are those of the joined batch. DistributedDataParallel is put around the network by
hand, because Accelerate's own preparation also replaces the network's `forward`, which no copy (the teacher) survives.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from pipa import PipaStep
from toy_pair import SETTINGS, Labelled, Unlabelled, network


def train(iterations: int, batch_size: int, out: Path, resume: bool = False, cpu: bool = False) -> PipaStep:
    accelerator = Accelerator(cpu=cpu)
    student = network().to(accelerator.device).train()
    wrapped = DistributedDataParallel(student) if accelerator.num_processes > 1 else student
    step = PipaStep(wrapped, backward=accelerator.backward, **SETTINGS).to(accelerator.device)
    optimizer = torch.optim.AdamW([*student.parameters(), *step.head_parameters()], lr=1e-3)
    source, target = (
        DataLoader(data, batch_size, shuffle=True, drop_last=True) for data in (Labelled(64), Unlabelled(64))
    )
    optimizer, source, target = accelerator.prepare(optimizer, source, target)
    # Teacher, projection heads, iteration and random state lie in the step.
    accelerator.register_for_checkpointing(student, step)
    if resume:
        accelerator.load_state(str(out / "state"))

    batches = zip(repeated(source), repeated(target), strict=False)
    for (image, label), unlabelled in itertools.islice(batches, max(iterations - step.iteration, 0)):
        optimizer.zero_grad()
        with accelerator.autocast():
            log = step(image, label, unlabelled)
        optimizer.step()
        if step.iteration % 10 == 0 or step.iteration == iterations:
            terms = {name: round(float(value), 3) for name, value in log.items() if name.startswith("loss")}
            accelerator.print(step.iteration, terms)

    accelerator.save_state(str(out / "state"))
    if accelerator.is_main_process:
        step.teacher.save_pretrained(out / "adapted")
    return step


def repeated(loader: DataLoader) -> itertools.chain:
    """The loader's batches again and again, in a new order each time."""
    return itertools.chain.from_iterable(loader for _ in itertools.count())


def main() -> PipaStep:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=2, help="of each process")
    parser.add_argument("--out", type=Path, default=Path("accelerate_run"))
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    parser.add_argument("--cpu", action="store_true")
    a = parser.parse_args()
    return train(a.iterations, a.batch_size, a.out, a.resume, a.cpu)


if __name__ == "__main__":
    main()
