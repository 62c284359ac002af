"""Configs as mmsegmentation ships them become domain adaptation by `custom_imports` and one PipaHook."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import mmseg
from mmengine.config import Config, ConfigDict
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner
from mmseg.apis import init_model
from mmseg.structures import SegDataSample

import layouts
import mmseg_families
from pipa import ShapeError

pytestmark = pytest.mark.slow

SHIPPED = Path(mmseg.__file__).parent / ".mim" / "configs"
CROP = (64, 64)
CLASSES = ("road", "car", "sign")
RESNET = dict(depth=18, base_channels=8, stem_channels=8)
# File, and what makes its network small: nothing but widths, and batch norm that keeps its statistics per process.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "segformer": (
        "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
        dict(
            backbone=dict(embed_dims=8, num_layers=[1, 1, 1, 1], init_cfg=None),
            decode_head=dict(in_channels=[8, 16, 40, 64], channels=16),
        ),
    ),
    "deeplabv3plus": (
        "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        dict(
            backbone=RESNET,
            decode_head=dict(in_channels=64, c1_in_channels=8, channels=16, c1_channels=8),
            auxiliary_head=dict(in_channels=32, channels=8, num_classes=3),
        ),
    ),
    "upernet": (
        "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py",
        dict(
            backbone=RESNET,
            decode_head=dict(in_channels=[8, 16, 32, 64], channels=16),
            auxiliary_head=dict(in_channels=32, channels=8, num_classes=3),
        ),
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """source/ with labels, target/ without, val/ with; noise images."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("data")
    for name, labelled in (("source", True), ("target", False), ("val", True)):
        layouts.folder(root / name, count=4 if labelled else 3, labelled=labelled)
    return root


def small_config(name: str, data: Path, work_dir: Path, iterations: int = 3) -> Config:
    """The shipped config, small, on made-up data; the supervised training it describes is untouched."""
    file, model = CASES[name]
    cfg = Config.fromfile(SHIPPED / file)
    cfg.merge_from_dict(dict(model=copy.deepcopy(model)))
    cfg.model.pretrained = None
    cfg.model.decode_head.num_classes = len(CLASSES)
    cfg.model.data_preprocessor.size = CROP
    for split, loader in (("source", cfg.train_dataloader), ("val", cfg.val_dataloader)):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.pop("data_prefix")
        loader.dataset.update(
            type="BaseSegDataset",
            data_root=str(data / split),
            data_prefix=dict(img_path="images", seg_map_path="labels"),
            img_suffix=".png",
            metainfo=dict(classes=CLASSES),
            reduce_zero_label=False,
        )
        for step in loader.dataset.pipeline:
            if "scale" in step:
                step.scale = (96, 64)
            if "crop_size" in step:
                step.crop_size = CROP
            if "reduce_zero_label" in step:
                step.reduce_zero_label = False
    cfg.test_dataloader = cfg.val_dataloader
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=iterations)
    cfg.default_hooks.checkpoint.interval = iterations
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.visualization.draw = False
    # mmengine keeps one visualizer per name and process, whose files stay in the first run's folder.
    cfg.visualizer.pop("name")
    cfg.experiment_name = f"{work_dir.name}-{work_dir.parent.name}"
    cfg.work_dir, cfg.launcher, cfg.randomness = str(work_dir), "none", dict(seed=0)
    return cfg


def target_loader(data: Path, batch_size: int = 2) -> dict[str, Any]:
    """Unlabelled images through mmsegmentation's own transforms."""
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="RandomResize", scale=(96, 64), ratio_range=(0.5, 1.5), keep_ratio=True),  # some need padding
        dict(type="RandomCrop", crop_size=CROP),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackSegInputs"),
    ]
    dataset = dict(type="BaseSegDataset", data_root=str(data / "target"), data_prefix=dict(img_path="images"))
    dataset.update(img_suffix=".png", metainfo=dict(classes=CLASSES), pipeline=pipeline)
    return dict(batch_size=batch_size, num_workers=0, sampler=dict(type="DrawSampler", stream=1), dataset=dict(dataset))


def with_hook(cfg: Config, data: Path, **settings: Any) -> Config:
    """The few lines a user adds."""
    small = dict(patch_warmup=0, patch_size=(48, 48), patch_iou=(0.2, 1.0), pixel_dim=8, patch_dim=8)
    hook = dict(type="PipaHook", target_dataloader=target_loader(data), projection_hidden=8, **{**small, **settings})
    cfg.custom_imports = dict(imports=["pipa.mmseg"])
    cfg.custom_hooks = [hook]
    file = data / "config.py"  # through a file, as custom_imports works there only
    cfg.dump(file)
    return Config.fromfile(file)


def logged(work_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines of the training log, and the validation line."""
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if "loss" in line], [line for line in lines if "mIoU" in line][-1]


@pytest.mark.parametrize("name", CASES)
def test_a_shipped_config_with_the_hook(name: str, data: Path, tmp_path: Path) -> None:
    cfg = with_hook(small_config(name, data, tmp_path), data)
    runner = Runner.from_cfg(cfg)
    runner.train()

    train, val = logged(tmp_path)
    terms = {f"loss_{term}" for term in ("source", "pixel", "feature_distance", "mix", "patch")}
    assert len(train) == 3
    for line in train:
        assert terms | {"loss", "pseudo_weight", "acc_source"} <= set(line)
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-4)
        assert all(np.isfinite(line[term]) for term in terms)
    assert train[-1]["loss_pixel"] > 0
    assert train[-1]["loss_patch"] > 0
    assert {"mIoU", "teacher/mIoU"} <= set(val)


@pytest.mark.parametrize("name", ["upernet"])
def test_heads_train_and_stay_out_of_the_model(name: str, data: Path, tmp_path: Path) -> None:
    cfg = with_hook(small_config(name, data, tmp_path), data)
    runner = Runner.from_cfg(cfg)
    before: dict[str, torch.Tensor] = {}

    from mmengine.hooks import Hook

    class Snapshot(Hook):
        def before_train(self, runner: Runner) -> None:
            before.update({k: v.detach().clone() for k, v in runner.model.named_parameters()})

    runner.register_hook(Snapshot())
    runner.train()
    after = dict(runner.model.named_parameters())
    heads = [k for k in after if k.startswith("pipa_heads.")]
    assert {k.split(".")[1] for k in heads} == {"pixel_head", "patch_head"}
    for part in ("pipa_heads.pixel_head.", "pipa_heads.patch_head.", "backbone.", "decode_head.", "auxiliary_head."):
        moved = [not torch.equal(before[k], after[k]) for k in after if k.startswith(part) and k.endswith("weight")]
        assert moved
        assert sum(moved) > len(moved) / 2, part

    file = tmp_path / "iter_3.pth"
    saved = torch.load(file, weights_only=False)
    assert not [k for k in saved["state_dict"] if k.startswith("pipa")]
    assert set(saved["pipa"]["heads"]) == {
        k[len("pipa_heads.") :] for k in runner.model.state_dict() if "pipa_heads" in k
    }
    # mmsegmentation alone tests it, with the config without the hook.
    plain = small_config(name, data, tmp_path)
    model = init_model(plain, str(file), device="cpu")
    state = model.state_dict()
    assert all(torch.equal(state[k], saved["state_dict"][k]) for k in state)
    tester = Runner.from_cfg(with_hook(small_config(name, data, tmp_path / "test"), data))
    tester.load_checkpoint(str(file))
    assert "mIoU" in tester.test()


@pytest.mark.parametrize("wrapper", [dict(type="AutocastOptimWrapper"), dict(type="AmpOptimWrapper", dtype="bfloat16")])
@pytest.mark.parametrize("name", ["segformer", "deeplabv3plus"])
def test_mixed_precision(
    name: str, wrapper: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrapper["type"] == "AmpOptimWrapper":
        # mmengine's AMP wrapper asks for a GPU; torch itself has bfloat16 autocast on the CPU.
        monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
    cfg = small_config(name, data, tmp_path, iterations=2)
    cfg.optim_wrapper.update(wrapper)
    seen: set[torch.dtype] = set()
    runner = Runner.from_cfg(with_hook(cfg, data))
    runner.model.decode_head.conv_seg.register_forward_hook(
        lambda module, _inputs, out: seen.add(out.dtype) if module.training else None
    )
    runner.train()
    train, _ = logged(tmp_path)
    assert seen == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in runner.model.parameters())
    assert all(np.isfinite(line["loss"]) for line in train)


def refused(cfg: Config, message: str, error: type[Exception] = ValueError) -> None:
    runner = Runner.from_cfg(cfg)
    with pytest.raises(error, match=message) as caught:
        runner.train()
    assert "\n" not in str(caught.value)  # one sentence


def test_gradient_accumulation_is_refused(data: Path, tmp_path: Path) -> None:
    cfg = small_config("segformer", data, tmp_path)
    cfg.optim_wrapper.accumulative_counts = 2
    refused(with_hook(cfg, data), "accumulative_counts must be 1")


def test_different_batch_sizes_are_refused(data: Path, tmp_path: Path) -> None:
    cfg = with_hook(small_config("segformer", data, tmp_path), data)
    cfg.custom_hooks[0].target_dataloader.batch_size = 3
    refused(cfg, "one batch_size, got 2 and 3")


def test_an_unknown_setting_is_refused_with_the_nearest(data: Path, tmp_path: Path) -> None:
    cfg = with_hook(small_config("segformer", data, tmp_path), data, thresold=0.9)
    refused(cfg, "unknown setting 'thresold'; did you mean 'threshold'")


def test_a_missing_target_is_refused(data: Path, tmp_path: Path) -> None:
    cfg = with_hook(small_config("segformer", data, tmp_path), data)
    del cfg.custom_hooks[0]["target_dataloader"]
    refused(cfg, "give it target_dataloader")


def test_pidnet_needs_edges(data: Path, tmp_path: Path) -> None:
    """Its own loss asks for what GenerateEdge makes; with it the training runs."""
    cfg = small_config("segformer", data, tmp_path)
    cfg.model = ConfigDict(
        {**mmseg_families.small("pidnet", len(CLASSES)), "data_preprocessor": cfg.model.data_preprocessor}
    )
    hooked = with_hook(cfg, data)
    refused(copy.deepcopy(hooked), "decode: PIDHead is trained with edges; add dict.type='GenerateEdge'")
    hooked.train_dataloader.dataset.pipeline.insert(-1, dict(type="GenerateEdge", edge_width=4))
    runner = Runner.from_cfg(hooked)
    runner.train()
    assert runner.iter == hooked.train_cfg.max_iters


def test_images_of_another_size_are_refused(data: Path, tmp_path: Path) -> None:
    cfg = with_hook(small_config("segformer", data, tmp_path), data)
    pipeline = cfg.custom_hooks[0].target_dataloader.dataset.pipeline
    pipeline[1] = dict(type="Resize", scale=(96, 96))
    pipeline[2].crop_size = (96, 96)  # smaller ones would be padded
    refused(cfg, "target image .*the size of the source image", ShapeError)


def test_settings_of_the_top_level(data: Path, tmp_path: Path) -> None:
    """`pipa = dict(...)` and `target_dataloader` of the config count, what the hook is given wins."""
    cfg = with_hook(small_config("segformer", data, tmp_path, iterations=1), data, patch_weight=0.3)
    cfg.target_dataloader = cfg.custom_hooks[0].pop("target_dataloader")
    cfg.pipa = dict(patch_weight=0.0, pixel_weight=0.0, mask_weight=1.0, mask_block=8, evaluate_teacher=False)
    runner = Runner.from_cfg(cfg)
    runner.train()
    (line,), val = logged(tmp_path)
    assert "loss_mask" in line
    assert "loss_patch" in line
    assert "loss_pixel" not in line
    assert "teacher/mIoU" not in val


def test_pseudo_label_margins_and_padding(data: Path) -> None:
    """The mask moves with crop and flip, and padding counts as margin."""
    from mmcv.transforms import Compose
    from mmseg.models import SegDataPreProcessor

    from pipa.mmseg.datasets.transforms import PackUnlabelled, PseudoMargins, SyncCrop
    from pipa.mmseg.engine.valid_mask import valid_mask

    image = np.full((40, 60, 3), 200, dtype=np.uint8)
    image[:5] = image[-12:] = image[:, :3] = 0  # what the margins below cover is black
    sample = dict(img=image, img_path="x", img_shape=(40, 60), ori_shape=(40, 60))
    margins = PseudoMargins(top=5, bottom=12, left=3)
    flip = dict(type="RandomFlip", prob=1.0)
    pipeline = Compose([margins, SyncCrop((32, 48), pad=True), flip, PackUnlabelled()])
    preprocess = SegDataPreProcessor(size=(36, 48), pad_val=0)
    for seed in range(5):
        np.random.seed(seed)  # noqa: NPY002
        packed = [pipeline({k: v.copy() if k == "img" else v for k, v in sample.items()}) for _ in range(2)]
        batch = preprocess(
            dict(inputs=[p["inputs"] for p in packed], data_samples=[p["data_samples"] for p in packed]), True
        )
        mask = valid_mask(batch["data_samples"])
        assert mask is not None
        assert mask.shape == (2, 36, 48)
        assert torch.equal(mask == 1, batch["inputs"][:, 0] == 200)
    assert (
        valid_mask(
            preprocess(dict(inputs=[torch.zeros(3, 36, 48)], data_samples=[SegDataSample()]), True)["data_samples"]
        )
        is None
    )
