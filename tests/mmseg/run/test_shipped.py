"""Shipped configs as people meet them: the list, one file to edit, what is published in them and what is ours."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

pytest.importorskip("mmseg")

from mmengine.config import Config

import pipa.configs
import two_iterations
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


@pytest.mark.parametrize("name", sorted(set(WRITTEN)))
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


def test_every_composed_config_is_run_for_two_iterations() -> None:
    """A name that no file of tests would run is that of a file of the folder, which has tests of its own."""
    run = [name for runs in two_iterations.RUNS for name in two_iterations.names(runs)]
    assert sorted(run) == sorted(name for name in NAMES if path_of(name).parent != Path(pipa.configs.__file__).parent)
    assert {f"test_runs_{runs}.py" for runs in two_iterations.RUNS} == {
        file.name for file in Path(__file__).parent.glob("test_runs_*.py")
    }


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
