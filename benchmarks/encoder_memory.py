"""Peak memory of one supervised step of ViT-L/16 under DAFormer's head at 512 pixels: full, LoRA, frozen.

    python benchmarks/encoder_memory.py [--size 512] [--batch 1]

Each in a process of its own: weights, one forward and backward pass under bfloat16 autocast, one step of AdamW. A
training holds the teacher and, with a feature distance, the frozen encoder beside it: their weights, no activations.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

MODES = ("frozen", "lora", "full")


def measure(mode: str, size: int, batch: int) -> None:
    import torch
    from mmengine.config import Config
    from mmseg.registry import MODELS

    import pipa.mmseg  # noqa: F401
    from pipa.configs import path_of

    torch.manual_seed(0)
    cfg = Config.fromfile(path_of("gta2cs_dinov3_vitl16_source_only")).model
    cfg.backbone.update(init_cfg=None, encoder=mode)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cfg.data_preprocessor = None
    model = MODELS.build(cfg).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    began = time.perf_counter()
    image, label = torch.randn(batch, 3, size, size), torch.randint(0, 19, (batch, size, size))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.decode_head(model.extract_feat(image))
    logits = torch.nn.functional.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)
    torch.nn.functional.cross_entropy(logits, label).backward()
    optimizer.step()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoder = sum(p.numel() for p in model.backbone.parameters())
    tuned = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    print(
        f"{mode:<7} encoder {encoder / 1e6:6.1f} M, of which trained {tuned / 1e6:6.2f} M; peak "
        f"{peak / 2**20:5.2f} GiB, above the imports {(peak - before) / 2**20:5.2f} GiB; {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--mode", choices=MODES)
    a = parser.parse_args()
    if a.mode:
        measure(a.mode, a.size, a.batch)
        return
    for mode in MODES:
        sizes = ["--size", str(a.size), "--batch", str(a.batch)]
        subprocess.run([sys.executable, __file__, "--mode", mode, *sizes], check=True)


if __name__ == "__main__":
    main()
