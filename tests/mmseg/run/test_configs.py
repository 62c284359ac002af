"""Every shipped config is composed as its name says, fits its data, and runs for two iterations at reduced size."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import mmengine.runner.runner
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmseg.registry import MODELS

import layouts
from pipa.configs import list_configs, path_of
from pipa.files.torch_file import CheckpointError
from pipa.mmseg.checkpoints.keys import convert_state_dict
from pipa.mmseg.datasets.domains import CITYSCAPES, SYNTHIA_13, SYNTHIA_16
from pipa.mmseg.models.backbones.mit import MiT
from small_segmentors import small_data

pytestmark = pytest.mark.slow

DOMAINS = {
    "gta2cs": ("GTADataset", "CityscapesDomainDataset"),
    "synthia2cs": ("SynthiaDataset", "CityscapesDomainDataset"),
    "cs2acdc": ("CityscapesDomainDataset", "ACDCDataset"),
    "cs2darkzurich": ("CityscapesDomainDataset", "DarkZurichDomainDataset"),
}
# Width and height of the official images.
SIZES = {
    "GTADataset": (1914, 1052),
    "SynthiaDataset": (1280, 760),
    "CityscapesDomainDataset": (2048, 1024),
    "ACDCDataset": (1920, 1080),
    "DarkZurichDomainDataset": (1920, 1080),
}
CROPS = {"daformer": 640, "hrda": 1024}
BASE = {"source", "feature_distance", "mix"}
TERMS: dict[str, set[str]] = {
    "source_only": set(),
    "self_training": BASE,
    "pixel": BASE | {"pixel"},
    "patch": BASE | {"patch"},
    "pipa": BASE | {"pixel", "patch"},
    "mic": BASE | {"mask"},
    "pipa_mic": BASE | {"pixel", "patch", "mask"},
}
MATRIX = [f"{d}_{n}_{m}" for d, n, m in itertools.product(DOMAINS, CROPS, TERMS)]


def parts(name: str) -> tuple[str, str, str]:
    domains, network, method = name.split("_", 2)
    return domains, network, method


def load(name: str) -> Config:
    return Config.fromfile(path_of(name))


def target_of(cfg: Config) -> ConfigDict:
    return cfg.target_dataloader.dataset


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_matrix_is_complete_and_described() -> None:
    listed = dict(list_configs())
    assert set(MATRIX) <= set(listed)
    for name in MATRIX:
        assert 20 < len(listed[name]) < 120, name
    assert len({listed[name] for name in MATRIX}) == len(MATRIX)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    assert path_of("gta2cs_daformer_pipa.py") == path_of("gta2cs_daformer_pipa")
    with pytest.raises(ValueError, match=r"no config named 'gta2cs_dafromer_pipa'; did you mean gta2cs_daformer_pipa"):
        path_of("gta2cs_dafromer_pipa")


def test_one_variable_moves_all_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPA_DATA", "/elsewhere/data")
    monkeypatch.setenv("PIPA_PRETRAINED", "/elsewhere/weights")
    for name in (name for name in MATRIX if parts(name)[2] == "pipa"):
        text = json.dumps(load(name).to_dict())
        roots = [part.split('"')[1] for part in text.split('"data_root":')[1:]]
        assert len(roots) >= 5
        assert all(root.startswith("/elsewhere/data") for root in roots), name
        assert '"/elsewhere/weights/mit_b5.pth"' in text


# -- composition -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATRIX)
def test_composition(name: str) -> None:
    """Data sets, crops, terms and sizes are those of the name, and every crop fits into its resized image."""
    cfg = load(name)
    domains, network, method = parts(name)
    crop = (CROPS[network], CROPS[network])
    source, target = cfg.train_dataloader.dataset.dataset, target_of(cfg)
    assert (source.type, target.type) == DOMAINS[domains]
    assert cfg.val_dataloader.dataset.type == cfg.test_dataloader.dataset.type == target.type
    assert cfg.val_dataloader.dataset.split == "val"
    assert target.unlabelled
    assert not source.get("unlabelled", False)
    assert cfg.train_dataloader.dataset.min_crop_ratio == {640: 0.5, 1024: 2.0}[CROPS[network]]
    assert tuple(cfg.model.data_preprocessor.size) == crop
    for dataset in (source, target):
        width, height = SIZES[dataset.type]
        for step in dataset.pipeline:
            if step.type == "Resize":
                factor = min(step.scale[0] / width, step.scale[1] / height)
                width, height = int(width * factor + 0.5), int(height * factor + 0.5)
            if step.type == "SyncCrop":
                assert tuple(step.crop_size) == crop
                assert width >= crop[1]
                assert height >= crop[0]
    subsets = cfg.val_evaluator.get("subsets")
    if domains == "synthia2cs":
        named = {key: tuple(CITYSCAPES["classes"][c] for c in ids) for key, ids in subsets.items()}
        assert named == dict(mIoU16=SYNTHIA_16, mIoU13=SYNTHIA_13)
    else:
        assert subsets is None

    if method == "source_only":
        assert list(cfg.custom_hooks) == []
        return
    weights = {term: cfg.pipa[f"{term}_weight"] for term in ("mix", "pixel", "patch", "mask", "feature_distance")}
    on = {term for term, weight in weights.items() if weight > 0} | {"source"}
    assert on == TERMS[method]
    assert weights["mix"] == 1
    assert {weights["pixel"], weights["patch"]} <= {0, 0.1}
    if "patch" in on:
        assert cfg.pipa.patch_warmup == 10000
        assert tuple(cfg.pipa.patch_size) == {640: (448, 448), 1024: (720, 720)}[CROPS[network]]


@pytest.mark.parametrize(("tree", "network"), [("DAFormer", "daformer"), ("HRDA", "hrda")])
def test_networks_have_the_released_parameters(tree: str, network: str, golden: Path) -> None:
    """At full size, MiT-B5: every name and shape."""
    shapes = json.loads((golden / "keys" / f"{tree}_segmentor_mit_b5.json").read_text())
    state = {k: torch.zeros(()).expand(s) for k, s in shapes.items() if k.startswith(("backbone.", "decode_head."))}
    expected = {name: tuple(value.shape) for name, value in convert_state_dict(state).items()}
    cfg = load(f"gta2cs_{network}_pipa").model
    cfg.backbone.init_cfg = cfg.data_preprocessor = None
    model = MODELS.build(cfg)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected


def test_settings_of_the_iteration_can_be_overridden() -> None:
    from pipa.mmseg.run.train import load_config

    cfg = load_config("gta2cs_hrda_pipa", ["pipa.pixel_weight=0.2", "pipa.pixel_min_pixels=101", "pipa.patch_dim=64"])
    assert (cfg.pipa.pixel_weight, cfg.pipa.pixel_min_pixels, cfg.pipa.patch_weight) == (0.2, 101, 0.1)


@pytest.mark.parametrize("tree", ["DAFormer", "HRDA", "MIC_seg"])
def test_values_are_those_of_the_released_configs(tree: str, golden: Path) -> None:
    """DAFormer's own crops are of 512 pixels; the margins and all else are the same."""
    released = json.loads((golden / "keys" / f"{tree}_config.json").read_text())
    name = {"DAFormer": "daformer_self_training", "HRDA": "hrda_self_training", "MIC_seg": "hrda_mic"}[tree]
    cfg = load(f"gta2cs_{name}")
    uda, data = released["uda"], released["data.train"]
    pairs = dict(
        alpha="alpha",
        pseudo_threshold="threshold",
        imnet_feature_dist_lambda="feature_distance_weight",
        imnet_feature_dist_classes="feature_distance_classes",
        imnet_feature_dist_scale_min_ratio="feature_distance_min_ratio",
        color_jitter_strength="jitter_strength",
        mask_lambda="mask_weight",
    )
    for theirs, ours in pairs.items():
        assert cfg.pipa[ours] == uda.get(theirs, 0), ours
    # Theirs is the probability that nothing is done.
    assert cfg.pipa.jitter_probability == 1 - uda["color_jitter_probability"]
    if tree == "MIC_seg":
        generator = uda["mask_generator"]
        assert (cfg.pipa.mask_block, cfg.pipa.mask_ratio) == (generator["mask_block_size"], generator["mask_ratio"])
    (margins,) = (step for step in target_of(cfg).pipeline if step.type == "PseudoMargins")
    ours = [margins.get(side, 0) for side in ("top", "bottom", "left", "right")]
    theirs = data["target"].get("crop_pseudo_margins")
    assert ours == (theirs or [uda["pseudo_weight_ignore_top"], uda["pseudo_weight_ignore_bottom"], 0, 0])
    sampling, rare = cfg.train_dataloader.dataset, data["rare_class_sampling"]
    assert [sampling.min_pixels, sampling.temperature, sampling.min_crop_ratio] == [
        rare[key] for key in ("min_pixels", "class_temp", "min_crop_ratio")
    ]
    for key in ("lr", "betas", "weight_decay", "type"):
        theirs = released["optimizer"][key]
        assert cfg.optim_wrapper.optimizer[key] == (tuple(theirs) if isinstance(theirs, list) else theirs)
    for key in ("scales", "hr_crop_size", "feature_scale", "crop_coord_divisible", "hr_slide_inference"):
        if key in released["model"]:
            value = cfg.model[key]
            assert (list(value) if isinstance(value, tuple) else value) == released["model"][key]
    test = released["model"]["test_cfg"]
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in cfg.model.test_cfg.items()} == test


def test_learning_rate_is_the_released_schedule(golden: Path) -> None:
    recorded = json.loads((golden / "extras" / "lr_schedule.json").read_text())
    cfg = load("gta2cs_daformer_pipa")
    cfg.merge_from_dict({"param_scheduler.1.end": recorded["max_iters"] + 1})
    weight = torch.nn.Parameter(torch.zeros(1))
    from mmengine.registry import PARAM_SCHEDULERS

    optimizer = torch.optim.AdamW([weight], lr=recorded["base"][0])
    schedulers = [PARAM_SCHEDULERS.build({**s, "optimizer": optimizer}) for s in cfg.param_scheduler]
    rates = []
    for _ in range(recorded["max_iters"]):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    for iteration, (rate, _) in recorded["lr_at_iter"].items():
        if int(iteration) < recorded["max_iters"]:
            assert rates[int(iteration)] == pytest.approx(rate, rel=1e-6), iteration


# -- pretrained weights ------------------------------------------------------------------------------------------------


def tiny_encoder(path: Path | str | None) -> MiT:
    init = None if path is None else dict(type="Pretrained", checkpoint=str(path))
    return MiT(embed_dims=8, num_heads=(1, 2, 5, 8), num_layers=(1, 1, 1, 1), init_cfg=init)


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mit_b5\.pth: .*NVlabs/SegFormer.*non-commercial.*pipa convert"):
        tiny_encoder(tmp_path / "mit_b5.pth").init_weights()


def test_weights_load_and_a_wrong_file_is_refused(tmp_path: Path) -> None:
    trained = tiny_encoder(None)
    torch.save({"state_dict": trained.state_dict(), "meta": {}}, tmp_path / "right.pth")
    encoder = tiny_encoder(tmp_path / "right.pth")
    encoder.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), trained.parameters(), strict=True))

    other = MiT(embed_dims=16, num_heads=(1, 2, 5, 8), num_layers=(1, 1, 1, 1))
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is it the file of this encoder"):
        tiny_encoder(tmp_path / "other.pth").init_weights()


# -- two iterations ----------------------------------------------------------------------------------------------------

IDS = (0, 1, 6, 13, 255)
IMAGE = (80, 128)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All data sets in their official layouts, two images each."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("data")

    def pair(image: str, label: str | None, seed: int) -> None:
        layouts.image(root / image, seed, IMAGE)
        if label is not None:
            layouts.label(root / label, seed, IMAGE, IDS)

    for i in (1, 2):
        pair(f"gta/images/{i:05d}.png", f"gta/labels/{i:05d}_labelTrainIds.png", i)
        pair(f"synthia/RGB/{i:07d}.png", f"synthia/GT/LABELS/{i:07d}_labelTrainIds.png", i)
        for split, city in (("train", "aachen"), ("val", "ulm")):
            stem = f"{split}/{city}/{city}_{i:06d}_000019"
            label = f"cityscapes/gtFine/{stem}_gtFine_labelTrainIds.png"
            pair(f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png", label, i)
        for condition, split in itertools.product(("fog", "night", "rain", "snow"), ("train", "val")):
            stem = f"{condition}/{split}/GP01/GP01_frame_{i:06d}"
            label = None if split == "train" else f"acdc/gt/{stem}_gt_labelTrainIds.png"
            pair(f"acdc/rgb_anon/{stem}_rgb_anon.png", label, i)
        for split, sequence in (("train", "GOPR0351"), ("val", "GOPR0356")):
            stem = f"{split}/night/{sequence}/{sequence}_frame_{i:06d}"
            label = None if split == "train" else f"dark_zurich/gt/{stem}_gt_labelTrainIds.png"
            pair(f"dark_zurich/rgb_anon/{stem}_rgb_anon.png", label, i)
    # mmengine collects garbage at every data set it builds: without the modules' objects that takes no time.
    gc.collect()
    gc.freeze()
    yield root
    gc.unfreeze()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mmengine's account of environment and config, which takes longer than the iterations."""
    monkeypatch.setattr(mmengine.runner.runner, "collect_env", dict)
    monkeypatch.setattr(Config, "pretty_text", property(lambda self: ""))
    monkeypatch.setattr(Config, "dump", lambda self, *_: "")


def shrink(cfg: Config, network: str, work_dir: Path) -> Config:
    """Sizes only: widths, crops, images, warm-up."""
    crop, patch = {"daformer": (64, 48), "hrda": (80, 64)}[network]

    small_data(cfg, crop, (IMAGE[1], IMAGE[0]))
    small = ConfigDict(
        backbone=dict(arch=None, embed_dims=8, num_heads=(1, 2, 5, 8), num_layers=(1, 1, 1, 1), init_cfg=None),
        decode_head=dict(in_channels=(8, 16, 40, 64), channels=16, decoder_params=dict(embed_dims=16)),
        data_preprocessor=dict(size=(crop, crop)),
    )
    if network == "hrda":
        small.update(hr_crop_size=(40, 40), test_cfg=dict(crop_size=(80, 80), stride=(40, 40)))
        small.decode_head.attention_embed_dim = 8
    cfg.merge_from_dict(dict(model=small))
    if "pipa" in cfg:
        cfg.pipa.update(pixel_dim=8, patch_dim=8, projection_hidden=8, patch_warmup=0, mask_block=16)
        cfg.pipa.update(patch_size=(patch, patch), patch_iou=(0.1, 1.0))
    cfg.merge_from_dict({"train_cfg.max_iters": 2, "train_cfg.val_interval": 2, "default_hooks.logger.interval": 1})
    cfg.default_hooks.checkpoint.interval = 100
    cfg.work_dir, cfg.experiment_name = str(work_dir), f"{work_dir.parent.name}-{work_dir.name}"
    return cfg


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.usefixtures("quiet")
def test_two_iterations(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPA_DATA", str(data))
    domains, network, method = parts(name)
    cfg = shrink(load(name), network, tmp_path)
    validated = method in ("source_only", "pipa_mic")
    if not validated:
        cfg.train_cfg.val_interval = 100
    runner = Runner.from_cfg(cfg)
    runner.train()

    (file,) = tmp_path.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    train = [line for line in lines if "loss" in line]
    assert len(train) == 2
    for line in train:
        assert all(np.isfinite(value) for key, value in line.items() if key.startswith("loss"))
        if method != "source_only":
            assert {key.removeprefix("loss_") for key in line if key.startswith("loss_")} == TERMS[method]
    if validated:
        (val,) = (line for line in lines if "mIoU" in line)
        metrics = {"mIoU", "mIoU16", "mIoU13"} if domains == "synthia2cs" else {"mIoU"}
        teacher = {f"teacher/{metric}" for metric in metrics} if method != "source_only" else set()
        assert metrics | teacher <= set(val)
