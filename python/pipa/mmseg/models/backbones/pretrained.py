"""ImageNet weights of the MiT encoder from a local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from pipa.files.torch_file import CheckpointError, load_plain
from pipa.mmseg.checkpoints.keys import convert_state_dict

GUIDE = (
    "download it from the SegFormer project (https://github.com/NVlabs/SegFormer, ImageNet-1K weights; the licence "
    "allows non-commercial use only), put it there as it is or after `pipa convert checkpoint`, or train from nothing "
    "with model.backbone.init_cfg=None"
)


def check_weights(
    path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], needs: str, hint: str
) -> None:
    """Every expected weight is in a file, in its shape.

    Raises:
        CheckpointError: names file, weight and shapes; ``needs`` and ``hint`` say for whom, and whose file it may be.
    """
    for name, value in expected.items():
        if name not in state:
            raise CheckpointError(f"{path}: holds no {name}, which {needs} needs; {hint}")
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, the encoder's is {tuple(value.shape)}"
            raise CheckpointError(f"{path}: {name} is {shapes}; {hint}")


def load_encoder(encoder: nn.Module, path: str | Path) -> None:
    """Fill an encoder from a released MiT file or a converted one; every weight of the encoder must be in it.

    Raises:
        FileNotFoundError: with how to get the file, and under which licence.
        CheckpointError: the file is no checkpoint, asks for code, or holds another encoder.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the encoder's ImageNet weights are not there; {GUIDE}")
    content = load_plain(path)
    state = content.get("state_dict", content)
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    state = convert_state_dict(state)
    expected = encoder.state_dict()
    check_weights(path, state, expected, type(encoder).__name__, "is it the file of this encoder (arch)?")
    encoder.load_state_dict({name: state[name] for name in expected})
