"""Shipped configs as people meet them: the list, one file to edit, and trainings of what has other shapes."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

import mmengine.runner.runner
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

import layouts
from pipa.commands import cli
from pipa.configs import compose, figures, groups, list_configs, path_of
from pipa.mmseg.engine.pipa_hook import PipaHook
from pipa.mmseg.run.train import load_config
from pipa.settings import native_step

NAMES = [name for name, _ in list_configs()]

# -- the list ----------------------------------------------------------------------------------------------------------


def test_every_name_has_a_description_and_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    texts = dict(list_configs())
    assert all(20 < len(text) < 120 for text in texts.values()), texts
    assert len(set(texts.values())) == len(texts)
    grouped = [name for configs in groups().values() for name, _ in configs]
    assert sorted(grouped) == sorted(NAMES)
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        (line,) = (line for line in lines if line.split(" ")[0] == name)
        assert line.endswith(texts[name])
        assert line.removesuffix(texts[name]).removeprefix(name).strip() == figures().get(name, "-")
    heads = [lines.index(title) for title in groups()]
    assert heads == sorted(heads)
    for title, configs in groups().items():
        below = lines[lines.index(title) + 1 :][: len(configs)]
        assert [line.split(" ")[0] for line in below] == [name for name, _ in configs]


def test_figures_are_the_published_ones() -> None:
    published = {
        "gta2cs_daformer_self_training": "68.3",
        "gta2cs_daformer_pipa": "71.7",
        "gta2cs_hrda_pipa": "75.6",
        "gta2cs_hrda_mic": "75.9",
        "synthia2cs_daformer_pipa": "63.4 / 70.1",
        "synthia2cs_hrda_pipa": "68.2 / 74.8",
        "gta2cs_deeplabv2_r101_dacs": "52.1",
        "gta2cs_deeplabv2_r101_proda_stage3": "57.5",
    }
    assert {name: figures()[name] for name in published} == published
    assert set(figures()) <= set(NAMES)
    assert "Published: 71.7 mIoU." in compose("gta2cs_daformer_pipa")


# -- one file to edit --------------------------------------------------------------------------------------------------

# One of each domain pair, network and method, and every config that is not composed.
WRITTEN = [
    *(name for name in NAMES if name.startswith(("gta2cs", "toy", "idda"))),
    *(name for name in NAMES if name.endswith(("daformer_pipa", "hrda_pipa"))),
]


# Those that run in `make test-fast` too.
FAST = {"toy_pipa", "gta2cs_daformer_pipa", "gta2cs_hrda_mic", "idda_to_iddlite_pipa"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in sorted(set(WRITTEN))]
)
def test_the_written_file_is_the_config(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    assert cli.main(["configs", name, "--write", str(file)]) == 0
    text = file.read_text()
    assert not re.search(r"\b_base_\b", text)
    assert text.count("#") > 5
    ours, theirs = Config.fromfile(str(path_of(name))), Config.fromfile(str(file))
    expected, found = load_config(name).to_dict(), load_config(file).to_dict()
    assert set(found) == set(expected)
    for key in set(expected) - {"work_dir"}:
        assert found[key] == expected[key], key
    if not name.startswith("idda_to_iddlite"):  # whose base has another folder, which mmengine alone does not follow
        assert ours.to_dict() == theirs.to_dict()
    capsys.readouterr()
    assert cli.main(["configs", name]) == 0
    assert capsys.readouterr().out == text


def test_a_file_is_not_replaced_without_consent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("mine")
    assert cli.main(["configs", "toy_pipa", "--write", str(file)]) == 1
    assert f"{file}: is there already" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert cli.main(["configs", "toy_pipa", "--write", str(file), "--overwrite"]) == 0
    assert "PipaHook" in file.read_text()
    for argv, said in (
        (["toy_pip", "--write", str(tmp_path / "x.py")], "no config named 'toy_pip'; did you mean toy_pipa?"),
        (["toy_pipa", "--write", str(tmp_path / "x.yaml")], "expected a file that ends in .py"),
        (["--write", str(tmp_path / "x.py")], "expected the NAME of a config too"),
    ):
        assert cli.main(["configs", *argv]) == 1
        assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]


def test_variables_of_the_written_file_act(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    cli.main(["configs", "gta2cs_hrda_pipa", "--write", str(file)])
    file.write_text(file.read_text().replace("crop_size = (1024, 1024)", "crop_size = (768, 768)"))
    config = load_config(file, ["max_iters=100"])
    assert config.model.hr_crop_size == (384, 384)
    assert config.pipa.patch_size == (536, 536)
    assert config.param_scheduler[1].end == 101


# -- settings of the new networks and methods --------------------------------------------------------------------------


def test_proda_is_the_papers() -> None:
    for domains in ("gta2cs", "synthia2cs"):
        stage = {n: load_config(f"{domains}_deeplabv2_r101_proda{n}") for n in ("", "_stage2", "_stage3")}
        for config in stage.values():
            assert {tuple(size) for size in (config.crop_size, config.model.data_preprocessor.size)} == {(512, 896)}
            assert config.train_dataloader.batch_size == config.target_dataloader.batch_size == 4
            assert (config.optim_wrapper.optimizer.lr, config.optim_wrapper.optimizer.weight_decay) == (1e-4, 2e-4)
            assert config.param_scheduler[0].power == 0.9
            assert {config.pipa[f"{term}_weight"] for term in ("mix", "pixel", "patch", "mask")} == {0}
        first, second, third = stage.values()
        assert (first.pipa.structure_weight, first.pipa.regularizer_weight, first.pipa.target_rce) == (10, 0.1, 1)
        assert (second.pipa.threshold, second.pipa.target_rce, second.pipa.distillation_weight) == (0.95, 0, 1)
        assert second.pipa == third.pipa
        work = f"work_dirs/{domains}_deeplabv2_r101_"
        assert [c.load_from for c in stage.values()] == [
            f"{work}source_only/iter_250000.pth",
            f"{work}proda/iter_90000.pth",
            f"{work}proda_stage2/iter_90000.pth",
        ]
        assert second.load_from == f"{first.work_dir}/iter_{first.train_cfg.max_iters}.pth"


def test_dacs_is_the_papers() -> None:
    config = load_config("gta2cs_deeplabv2_r101_dacs")
    assert config.optim_wrapper.optimizer == dict(type="SGD", lr=2.5e-4, momentum=0.9, weight_decay=5e-4)
    assert (config.train_cfg.max_iters, config.param_scheduler[0].power) == (250000, 0.9)
    assert (config.pipa.alpha, config.pipa.threshold, config.pipa.feature_distance_weight) == (0.99, 0.968, 0)
    assert config.train_dataloader.dataset.type == "GTADataset"  # no rare class sampling
    assert config.model.decode_head.type == "DeepLabV2Head"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_step_takes_the_settings_of_every_config(name: str) -> None:
    config = Config.fromfile(str(path_of(name)))
    hooks = [hook for hook in config.custom_hooks or [] if hook.type == "PipaHook"] if "custom_hooks" in config else []
    assert len(hooks) == (0 if name.endswith(("source_only", "source_continued", "oracle")) else 1)
    for hook in hooks:
        given = {**config.get("pipa", {}), **{key: value for key, value in hook.items() if key != "type"}}
        native_step(PipaHook(**given).options, 0)
        assert config.target_dataloader.batch_size == config.train_dataloader.batch_size
        if given.get("patch_weight", 0.1) > 0:
            crop = config.model.data_preprocessor.size
            assert all(side <= whole for side, whole in zip(given["patch_size"], crop, strict=True))


# -- what is ours ------------------------------------------------------------------------------------------------------

OURS = {
    "gta2cs_deeplabv2_r101_pipa_proda": ("prototype_temperature", "prototype_momentum", "norm_cfg", "paramwise_cfg"),
    "gta2cs_deeplabv2_r101_proda": ("prototype_temperature", "jitter_strength", "max_iters", "init_cfg"),
    "gta2cs_deeplabv2_r101_proda_stage2": ("jitter_strength", "max_iters"),
    "gta2cs_daformer_pipa_distribution": ("distribution_weight", "distribution_temperature", "patch_size"),
    "gta2cs_dinov2_vitb14_pipa": ("patch_size",),
    "gta_synthia2cs_daformer_pipa": ("synthia_scale",),
}


@pytest.mark.parametrize("name", OURS)
def test_values_that_no_paper_gives_are_marked(name: str) -> None:
    """In the comment right above them."""
    lines = [line.strip() for line in compose(name).splitlines()]
    for variable in OURS[name]:
        place = next(i for i, line in enumerate(lines) if re.match(rf"{variable} ?=", line))
        comment = itertools.takewhile(lambda line: line.startswith("#"), reversed(lines[:place]))
        assert "ours" in " ".join(comment).lower(), variable


# -- two iterations ----------------------------------------------------------------------------------------------------

IMAGE = (80, 128)
SHAPES: list[Any] = []


@HOOKS.register_module()
class ShapesHook(Hook):
    """Keeps the shapes of what the iterations get."""

    def before_train(self, runner: Runner) -> None:
        SHAPES.clear()
        (hook,) = [hook for hook in runner.hooks if type(hook).__name__ == "PipaHook"] or [None]
        if hook is not None:
            keep = lambda _module, _args, given: SHAPES.append([given["source"].shape, given["target"].shape])  # noqa: E731
            hook.pipa.register_forward_pre_hook(keep, with_kwargs=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("data")
    for i in (1, 2):
        for image, label in (
            (f"gta/images/{i:05d}.png", f"gta/labels/{i:05d}_labelTrainIds.png"),
            (f"synthia/RGB/{i:07d}.png", f"synthia/GT/LABELS/{i:07d}_labelTrainIds.png"),
            (f"cityscapes/leftImg8bit/train/a/a_{i:06d}_000019_leftImg8bit.png", None),
        ):
            layouts.image(root / image, i, IMAGE)
            if label is not None:
                layouts.label(root / label, i, IMAGE, (0, 1, 6, 13, 255))
    return root


def small(name: str, work: Path, *options: str) -> Config:
    """Sizes by the config's own variables; widths, margins and the checkpoint by hand."""
    sizes = ["crop_size=(64, 64)", "source_scale=(128, 80)", "batch_size=2", "num_workers=0", "max_iters=2"]
    cfg = load_config(name, [*sizes, *options], str(work))
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    backbone.init_cfg = None
    if backbone.type == "ResNet":
        backbone.update(depth=50, base_channels=4, stem_channels=4)
        head.in_channels = 128
    else:
        backbone.update(arch=None, embed_dims=8, num_heads=(1, 2, 5, 8), num_layers=(1, 1, 1, 1))
        head.update(in_channels=(8, 16, 40, 64), channels=16)
        head.decoder_params.embed_dims = 16
    if "pipa" in cfg:
        cfg.pipa.update(pixel_dim=8, patch_dim=8, projection_hidden=8, patch_warmup=0, mask_block=16)
        if cfg.pipa.get("prototype_batches"):
            cfg.pipa.prototype_batches = 1
        for step in cfg.target_dataloader.dataset.pipeline:
            if step.type == "PseudoMargins":
                step.update(top=1, bottom=8)
    if cfg.train_dataloader.dataset.type == "RareClassSampling":
        cfg.train_dataloader.dataset.min_pixels = 10
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type="ShapesHook")]
    cfg.default_hooks.logger.interval = 1
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.experiment_name = f"{work.parent.name}-{work.name}"
    return cfg


def trained(cfg: Config, batch: int = 2) -> set[str]:
    """Train; the names of the terms in the log, after a look at losses, batch, crop and learning rate."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    (file,) = Path(cfg.work_dir).glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 2
    rate = cfg.optim_wrapper.optimizer.lr
    for line in lines:
        assert all(np.isfinite(value) for key, value in line.items() if key.startswith("loss"))
    assert lines[-1]["base_lr"] < rate  # on its way down to the new end
    if SHAPES:
        assert [[(batch, 3, 64, 64)] * 2] * 2 == SHAPES
    return {key.removeprefix("loss_") for key in lines[-1] if key.startswith("loss_")}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setenv("PIPA_DATA", str(data))
    monkeypatch.setattr(mmengine.runner.runner, "collect_env", dict)


BASE = {"source", "mix"}
TERMS = {
    "gta2cs_deeplabv2_r101_dacs": BASE,
    "synthia2cs_deeplabv2_r101_pixel": BASE | {"pixel"},
    "synthia2cs_deeplabv2_r101_patch": BASE | {"patch"},
    "gta2cs_deeplabv2_r101_pipa": BASE | {"pixel", "patch"},
    "gta2cs_deeplabv2_r101_pipa_proda": BASE | {"pixel", "patch"},
    "gta2cs_daformer_pipa_proda": BASE | {"pixel", "patch", "feature_distance"},
    "gta2cs_daformer_pipa_distribution": BASE | {"distribution", "distribution_mix", "patch", "feature_distance"},
    "gta_synthia2cs_daformer_pipa": BASE | {"pixel", "patch", "feature_distance"},
    "gta_synthia2cs_daformer_source_only": set(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.usefixtures("quiet")
def test_two_iterations_of_other_shapes(name: str, tmp_path: Path) -> None:
    assert trained(small(name, tmp_path)) == TERMS[name]


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_prodas_stages_start_from_the_stage_before(tmp_path: Path) -> None:
    start, name = None, "gta2cs_deeplabv2_r101"
    terms = {
        "source_only": set(),
        "proda": {"source", "target", "structure", "regularizer"},
        "proda_stage2": {"source", "target", "distillation"},
        "proda_stage3": {"source", "target", "distillation"},
    }
    for method, expected in terms.items():
        options = ["load_from=null"] if start is None else [f"load_from={start}"]
        batch = 3 if method == "proda" else 2
        found = trained(small(f"{name}_{method}", tmp_path / method, *options, f"batch_size={batch}"), batch)
        assert found == expected
        saved = torch.load(tmp_path / method / "iter_2.pth", weights_only=True)
        if start is not None:  # the network that gives the labels is the end of the stage before
            before = torch.load(start, weights_only=True)["state_dict"]
            kept = saved["pipa"]["initial"]
            assert all(torch.equal(kept[key], value) for key, value in before.items())
            assert not torch.equal(saved["state_dict"]["backbone.conv1.weight"], kept["backbone.conv1.weight"])
        start = tmp_path / method / "iter_2.pth"
