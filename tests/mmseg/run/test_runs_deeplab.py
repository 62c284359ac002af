"""Two iterations of every composed config of DeepLab-v2: its terms act, and ProDA's stages follow each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")

import two_iterations

pytestmark = pytest.mark.slow
data, quiet = two_iterations.data, two_iterations.quiet


# In the order in which each starts from the checkpoint of the one before.
CHAIN = ("source_only", "proda", "proda_stage2", "proda_stage3")
NAMES = two_iterations.names("deeplab")
ALONE = [name for name in NAMES if two_iterations.parts(name)[2] not in CHAIN]


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.usefixtures("quiet")
def test_two_iterations(name: str, tmp_path: Path) -> None:
    two_iterations.check(name, tmp_path)


@pytest.mark.parametrize("domains", ["gta2cs", "synthia2cs"])
@pytest.mark.usefixtures("quiet")
def test_prodas_stages_start_from_the_stage_before(domains: str, tmp_path: Path) -> None:
    start = None
    for method in CHAIN:
        work = tmp_path / method
        two_iterations.check(f"{domains}_deeplabv2_r101_{method}", work, start)
        saved = torch.load(work / "iter_2.pth", weights_only=True)
        if start is not None:  # the network that gives the labels is the end of the stage before
            before = torch.load(start, weights_only=True)["state_dict"]
            kept = saved["pipa"]["initial"]
            assert all(torch.equal(kept[key], value) for key, value in before.items())
        start = work / "iter_2.pth"


def test_every_config_of_the_network_is_run() -> None:
    chained = [f"{domains}_deeplabv2_r101_{method}" for domains in ("gta2cs", "synthia2cs") for method in CHAIN]
    assert sorted([*ALONE, *chained]) == sorted(NAMES)
