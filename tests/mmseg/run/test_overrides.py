"""A setting acts or is refused: on the command line, in files over a config, in variables of base files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from pipa.mmseg.run.config import read_config
from pipa.mmseg.run.train import load_config, train

SAYS = {".yaml": "_base_: {base}\n{text}\n", ".py": "_base_ = '{base}'\n{text}\n"}


def over(folder: Path, base: str, text: str, suffix: str = ".py") -> Path:
    """A file over a base: Python, YAML, or the YAML's content as JSON."""
    if suffix == ".json":
        import yaml

        content = json.dumps({"_base_": base, **yaml.safe_load(text)})
    else:
        content = SAYS[suffix].format(base=base, text=text)
    file = folder / f"mine_{len(list(folder.iterdir()))}{suffix}"
    file.write_text(content)
    return file


def rates(config: Config) -> list[float]:
    """Learning rate of each iteration, as the config's own schedulers give it."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedulers = [PARAM_SCHEDULERS.build({**s, "optimizer": optimizer}) for s in config.param_scheduler]
    found = []
    for _ in range(config.train_cfg.max_iters):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


# -- the schedule ------------------------------------------------------------------------------------------------------

LENGTHS = {
    "gta2cs_daformer_pipa": "max_iters",
    "gta2cs_deeplabv2_r101_dacs": "max_iters",
    "toy_pipa": "max_iters",
    "idda_to_camvid_pipa": "iterations",
    "idda_to_iddlite_pipa": "iterations",
}


@pytest.mark.parametrize("iterations", [pytest.param(2000, marks=pytest.mark.slow), 3, 2, 1])
@pytest.mark.parametrize("name", LENGTHS)
def test_the_schedule_ends_with_the_training(name: str, iterations: int, tmp_path: Path) -> None:
    doors = [
        load_config(name, [f"train_cfg.max_iters={iterations}"]),
        load_config(name, [f"{LENGTHS[name]}={iterations}"]),
        load_config(over(tmp_path, name, f"{LENGTHS[name]} = {iterations}")),
        load_config(over(tmp_path, name, f"train_cfg = dict(max_iters={iterations})")),
        load_config(over(tmp_path, name, f"{LENGTHS[name]}: {iterations}", ".yaml")),
        load_config(over(tmp_path, name, f"train_cfg: {{max_iters: {iterations}}}", ".json")),
    ]
    expected = rates(doors[0])
    assert len(expected) == iterations
    for config in doors[1:]:
        assert rates(config) == expected
        assert config.train_cfg == doors[0].train_cfg
    if iterations == 2000:  # past the warm-up: all the way down, at the end and not before
        assert expected[-1] < 5e-3 * max(expected)
        assert expected[-2] > expected[-1]
        assert expected[1900] > 0.03 * max(expected)


def test_a_schedule_without_a_variable_follows_too(tmp_path: Path) -> None:
    """mmsegmentation's own base files."""
    file = over(tmp_path, "mmseg::_base_/schedules/schedule_20k.py", "train_cfg = dict(max_iters=40)")
    config = load_config(file, [])
    assert [(s.begin, s.end) for s in config.param_scheduler] == [(0, 40)]
    assert rates(config)[-1] == pytest.approx(1e-4 + (1 - 1e-4) * (1 / 39) ** 0.9, abs=0.05)
    again = load_config(file, ["train_cfg.max_iters=10", "param_scheduler.0.end=99"])
    assert again.param_scheduler[0].end == 99  # said, so it counts


def test_a_deliberate_end_stays(tmp_path: Path) -> None:
    """A training that stops before its schedule ends, as in the released ones, is nobody's override."""
    file = tmp_path / "mine.py"
    file.write_text(
        "train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000)\n"
        "param_scheduler = [dict(type='PolyLR', by_epoch=False, begin=0, end=60000)]\n"
    )
    assert load_config(file).param_scheduler[0].end == 60000
    assert load_config(file, ["train_cfg.max_iters=30000"]).param_scheduler[0].end == 60000


# -- variables ---------------------------------------------------------------------------------------------------------


def crops(config: Config) -> list[tuple[int, ...]]:
    """Every crop of the config's training pipelines, and the preprocessor's size."""
    found: list[Any] = [config.model.data_preprocessor.size]

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "SyncCrop":
                found.append(node["crop_size"])
            for value in node.values():
                walk(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                walk(value)

    walk([config.train_dataloader, config.get("target_dataloader"), config.get("custom_hooks")])
    return [tuple(crop) for crop in found]


def doors(folder: Path, name: str, variable: str, value: Any) -> list[Config]:
    """A variable set on the command line, in Python, YAML, JSON, and in a file over a file."""
    below = over(folder, name, "randomness = dict(seed=3)")
    return [
        load_config(name, [f"{variable}={value}"]),
        load_config(over(folder, name, f"{variable} = {value!r}")),
        load_config(over(folder, name, f"{variable}: {json.dumps(value)}", ".yaml")),
        load_config(over(folder, name, f"{variable}: {json.dumps(value)}", ".json")),
        load_config(over(folder, below.name, f"{variable} = {value!r}")),
    ]


@pytest.mark.parametrize(
    "name", ["toy_pipa", "gta2cs_daformer_pipa", "gta2cs_hrda_pipa", "gta2cs_deeplabv2_r101_proda"]
)
def test_the_crop_follows_everywhere(name: str, tmp_path: Path) -> None:
    for config in doors(tmp_path, name, "crop_size", (512, 512)):
        found = crops(config)
        assert len(found) >= 3
        assert set(found) == {(512, 512)}
        if "hrda" in name:
            assert config.model.hr_crop_size == config.model.test_cfg.stride == (256, 256)
            assert config.model.test_cfg.crop_size == (512, 512)
        if "daformer" in name:  # as in DAFormer's paper
            assert config.target_dataloader.dataset.pipeline[1].scale == (1024, 512)
            assert config.pipa.patch_size == (352, 352)


def test_other_variables_of_the_shipped_configs(tmp_path: Path) -> None:
    for config in doors(tmp_path, "gta2cs_daformer_pipa", "batch_size", 3):
        assert config.train_dataloader.batch_size == config.target_dataloader.batch_size == 3
    for config in doors(tmp_path, "gta2cs_daformer_pipa", "num_workers", 0):
        for loader in (config.train_dataloader, config.target_dataloader, config.val_dataloader):
            assert (loader.num_workers, loader.persistent_workers) == (0, False)
    for config in doors(tmp_path, "synthia2cs_daformer_pipa", "data_root", "/elsewhere"):
        assert config.train_dataloader.dataset.dataset.data_root == "/elsewhere/synthia"
        assert config.test_dataloader.dataset.data_root == "/elsewhere/cityscapes"
    rare = load_config("gta2cs_daformer_pipa", ["source.img_suffix=.jpg"])  # inside a variable
    assert rare.train_dataloader.dataset.dataset.img_suffix == ".jpg"
    two = load_config("gta2cs_daformer_pipa", ["source_pipeline.2.scale=(640, 360)", "max_iters=10"])
    assert two.train_dataloader.dataset.dataset.pipeline[2].scale == (640, 360)
    assert two.train_cfg.max_iters == 10


def test_variables_of_a_users_own_files(tmp_path: Path) -> None:
    (tmp_path / "common.py").write_text(
        "norm_cfg = dict(type='SyncBN', requires_grad=True)\n"
        "side = 8\n"
        "if side > 4:\n    side += 1\n"
        "sides = [side, 2 * side]\n"
        "model = dict(type='EncoderDecoder', backbone=dict(norm_cfg=norm_cfg, sides=sides))\n"
    )
    middle = over(tmp_path, "common.py", "side = _base_.side - 1\ntaken = {{_base_.sides}}\nmodel = dict(neck=taken)")
    config = load_config(middle)
    assert (config.side, config.model.backbone.sides, config.model.neck) == (8, [8, 16], [8, 16])
    config = load_config(middle, ["side=5", "norm_cfg.type=BN"])
    assert (config.side, config.model.backbone.sides, config.model.neck) == (5, [5, 10], [5, 10])
    assert config.model.backbone.norm_cfg == dict(type="BN", requires_grad=True)
    file = tmp_path / "top.py"
    file.write_text(f"_base_ = './{middle.name}'\nnorm_cfg = dict(type='GN', num_groups=2)\nsides = [1]\n")
    config = load_config(file)
    assert config.model.backbone == dict(norm_cfg=dict(type="GN", requires_grad=True, num_groups=2), sides=[1])
    assert config.model.neck == [1]


def test_bases_by_name(tmp_path: Path) -> None:
    plain = load_config("gta2cs_daformer_pipa")
    for suffix, text in ((".py", "randomness = dict(seed=5)"), (".yaml", "randomness: {seed: 5}")):
        config = load_config(over(tmp_path, "gta2cs_daformer_pipa", text, suffix))
        assert config.randomness.seed == 5
        assert config.model == plain.model
        assert read_config(over(tmp_path, "gta2cs_daformer_pipa", text, suffix)).pipa == plain.pipa
    with pytest.raises(ValueError, match=r"mine_\d\.py: .*did you mean gta2cs_daformer_pipa"):
        load_config(over(tmp_path, "gta2cs_dafromer_pipa", ""))


# -- a hook with settings of its own -----------------------------------------------------------------------------------


def test_the_hooks_own_settings_hear_too(tmp_path: Path) -> None:
    files = [
        over(tmp_path, "toy_pipa", "pipa = dict(patch_warmup=5)\ntarget_dataloader = dict(batch_size=7)"),
        over(tmp_path, "toy_pipa", "pipa: {patch_warmup: 5}\ntarget_dataloader: {batch_size: 7}", ".yaml"),
        over(tmp_path, "toy_pipa", "pipa: {patch_warmup: 5}\ntarget_dataloader: {batch_size: 7}", ".json"),
    ]
    configs = [load_config(file) for file in files]
    configs.append(load_config("toy_pipa", ["pipa.patch_warmup=5", "target_dataloader.batch_size=7"]))
    for config in configs:
        (hook,) = config.custom_hooks
        assert hook.patch_warmup == 5
        assert hook.target_dataloader.batch_size == config.target_dataloader.batch_size == 7
        assert hook.target_dataloader.sampler == dict(type="DrawSampler", stream=1)
    moved = load_config("gta2cs_daformer_pipa", ["custom_hooks.0.target_dataloader.batch_size=7"])
    assert moved.target_dataloader.batch_size == 7


# -- settings that components know -------------------------------------------------------------------------------------

TAKEN: dict[str, Any] = {
    "randomness.deterministic": True,
    "randomness.diff_rank_seed": True,
    "env_cfg.dist_cfg.timeout": 100,
    "env_cfg.mp_cfg.mp_start_method": "fork",
    "env_cfg.resource_limit": 8192,
    "train_dataloader.pin_memory": True,
    "train_dataloader.drop_last": True,
    "log_processor.num_digits": 6,
    "optim_wrapper.clip_grad.max_norm": 1.0,
    "optim_wrapper.accumulative_counts": 1,
    "default_hooks.checkpoint.save_last": False,
    "model.test_cfg.stride": (8, 8),
    "load_from": "file.pth",
    "visualizer": None,
    "pipa.pixel_memory_bank": 4,
}


@pytest.mark.parametrize("key", TAKEN)
@pytest.mark.parametrize("name", ["toy_pipa", "gta2cs_daformer_pipa"])
def test_what_a_component_knows_may_be_set(name: str, key: str) -> None:
    node: Any = load_config(
        name, [f"{key}={TAKEN[key]!r}" if not isinstance(TAKEN[key], str) else f"{key}={TAKEN[key]}"]
    )
    for part in key.split("."):
        node = node[part]
    assert node == TAKEN[key]


REFUSED = {
    "randomness.determinstic=True": "the config has no 'determinstic'; did you mean 'deterministic'?",
    "env_cfg.dist_cfg.timeuot=1": "the config has no 'timeuot'; did you mean 'timeout'?",
    "train_dataloader.pin_memry=True": "the config has no 'pin_memry'; did you mean 'pin_memory'?",
    "pipa.pixel_wieght=1": "the config has no 'pixel_wieght'; did you mean 'pixel_weight'?",
    "optim_wrapper.clip_grd.max_norm=1": "the config has no 'clip_grd'; did you mean",
    "max_iter=3": "the config has no 'max_iter'; did you mean 'max_iters'?",
    "max_iters=long": "max_iters: expected a number in the place of 1000, got 'long'",
    "crop_size=32": "crop_size: expected 2 values in the place of (96, 128), got 32",
    "lr=1": "the config has no 'lr'; did you mean 'optim_wrapper.optimizer.lr'?",
    "model.0.depth=1": "the config has no '0'",
    "train_cfg.max_iters=two": "train_cfg.max_iters: expected a whole number of 1 or more, got 'two'",
    "train_cfg.max_iters=(1,2)": "train_cfg.max_iters: expected a whole number of 1 or more, got (1, 2)",
    "train_cfg.max_iters=0": "train_cfg.max_iters: expected a whole number of 1 or more, got 0",
    "randomness.seed=abc": "randomness.seed: expected a whole number of 0 or more, got 'abc'",
    "train_dataloader.num_workers=two": "train_dataloader.num_workers: expected a whole number of 0 or more, got 'two'",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_nobody_knows_is_refused(option: str) -> None:
    with pytest.raises(ValueError) as error:
        load_config("toy_pipa", [option])
    assert REFUSED[option] in str(error.value)
    assert str(error.value).startswith("--cfg-options ")


def test_windows_need_their_size() -> None:
    with pytest.raises(ValueError, match=r"model\.test_cfg: expected crop_size and stride for windows"):
        load_config("toy_pipa", ["model.test_cfg.mode=slide"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x02}q", "mine.py: expected a config in Python, YAML or JSON, got a file that is no text"),
        (b"model = dict(\n", "mine.py, line 1: expected a config in Python, got '(' was never closed"),
        (b"model = dict(depth=dpeth)\n", "mine.py: NameError: name 'dpeth' is not defined"),
        (b"lr = 1\n", "mine.py: expected a config with a model, got lr"),
    ],
)
def test_a_file_that_is_no_config_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    """A checkpoint in the place of the config, for one."""
    (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(ValueError) as error:
        train(load_config(tmp_path / "mine.py"))
    assert said in str(error.value)


def test_what_does_nothing_is_refused(tmp_path: Path) -> None:
    for name, option in (
        ("gta2cs_daformer_source_only", "pipa.pixel_weight=0.2"),
        ("gta2cs_daformer_source_only", "target_dataloader.batch_size=3"),
        ("gta2cs_daformer_source_only", "patch_size=(64, 64)"),
    ):
        with pytest.raises(ValueError, match=r"has no effect"):
            load_config(name, [option])
    load_config("gta2cs_daformer_source_only", ["target_dataloader.num_workers=0"])  # changes no result

    # A config as the runner writes it has the variables, and nothing that follows from them.
    dumped = tmp_path / "dumped.py"
    load_config("toy_pipa").dump(dumped)
    acts = "the option max_iters has no effect, nothing is computed from it; set train_cfg.max_iters"
    with pytest.raises(ValueError, match=acts):
        load_config(dumped, ["max_iters=2"])
    assert rates(load_config(dumped, ["train_cfg.max_iters=100"])) == rates(load_config("toy_pipa", ["max_iters=100"]))
    dumped.write_text(dumped.read_text().replace("\nmax_iters = 1000", "\nmax_iters = 5"))
    with pytest.warns(UserWarning, match=r"dumped\.py: max_iters = 5 has no effect, .* set train_cfg\.max_iters"):
        load_config(dumped)  # the copy may have had its train_cfg changed, so this is not an error
    for suffix, text in ((".py", "batch_size = 7"), (".yaml", "batch_size: 7"), (".json", "batch_size: 7")):
        file = over(tmp_path, "toy_pipa", text, suffix)
        with pytest.raises(ValueError, match=r"batch_size = 7 has no effect, .* set train_dataloader\.batch_size or"):
            load_config(file)
        file = over(tmp_path, "toy_pipa", text.replace("batch_size", "max_iter"), suffix)
        with pytest.raises(ValueError, match=r"unknown setting 'max_iter'; did you mean 'max_iters'\?"):
            load_config(file)


def test_no_workers_are_no_persistent_ones() -> None:
    for name in ("gta2cs_daformer_pipa", "idda_to_camvid_pipa"):
        config = load_config(name, ["train_dataloader.num_workers=0", "train_dataloader.prefetch_factor=2"])
        loader = config.train_dataloader
        torch.utils.data.DataLoader([1], **{k: loader.get(k) for k in ("num_workers", "persistent_workers")})
        assert "prefetch_factor" not in loader
        assert config.val_dataloader.persistent_workers
