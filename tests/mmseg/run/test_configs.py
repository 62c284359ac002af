"""Configs of DAFormer and HRDA are composed as named, fit their data and hold the published values.

Two iterations of each: test_runs_daformer.py, test_runs_hrda.py.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import Config, ConfigDict
from mmseg.registry import MODELS

from pipa.configs import list_configs, path_of
from pipa.files.torch_file import CheckpointError
from pipa.mmseg.checkpoints.keys import convert_state_dict
from pipa.mmseg.datasets.domains import CITYSCAPES, SYNTHIA_13, SYNTHIA_16
from pipa.mmseg.models.backbones.mit import MiT

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
