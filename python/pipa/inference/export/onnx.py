"""ONNX through ``torch.export``, checked with onnxruntime before the file takes its place.

Input ``image``: float32 ``(B, 3, H, W)``, RGB, 0 to 255. Output ``logits``: float32 ``(B, C, H, W)``. H and W are those
of the export, B is free.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipa.files.atomic import write
from pipa.inference.export.metadata import NAME, to_text
from pipa.inference.network import Network
from pipa.inference.tiling import slide

# The largest difference of a logit, as a share of the largest logit, that float32 in another order explains.
_TOLERANCE = 1e-3


class Exportable(nn.Module):
    """Normalisation, network and sliding in one module: RGB values 0 to 255 to logits of the same size."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.module = network.parameters_module()

    def forward(self, image: Tensor) -> Tensor:
        inputs = self.network.normalised(image)
        window = self.network.window
        logits = self._pass(inputs) if window is None else slide(inputs, window, self._pass)
        logits = logits[:, :, : image.shape[2], : image.shape[3]]
        return logits.float()

    def _pass(self, inputs: Tensor) -> Tensor:
        logits = self.network.logits(inputs, [{"img_shape": inputs.shape[2:], "ori_shape": inputs.shape[2:]}])
        if logits.shape[2:] == inputs.shape[2:]:
            return logits
        size = (inputs.shape[2], inputs.shape[3])
        return interpolate(logits, size, mode="bilinear", align_corners=self.network.align_corners)


def write_onnx(path: Path, network: Network, size: tuple[int, int]) -> float:
    """Export, compare with PyTorch on batches of one and two, and write.

    Args:
        size: height and width of the input in pixels.

    Returns:
        The largest difference between a logit of onnxruntime and of PyTorch.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing. ValueError: the network cannot be exported, or the
            file does not give what PyTorch gives.
    """
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    _package("onnxscript")
    module = Exportable(network).cpu().eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, *size)).astype(np.float32))
    with torch.no_grad():
        try:
            expected = module(images)
        except (RuntimeError, ValueError, ZeroDivisionError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"--size {size[0]} {size[1]}: the network takes no input of that size: {first}") from error
        one = module(images[:1])
    program = _program(module, images)
    buffer = io.BytesIO()
    model = onnx.load_model_from_string(program.model_proto.SerializeToString())
    entry = model.metadata_props.add()
    entry.key, entry.value = NAME, to_text(network.description())
    onnx.save_model(model, buffer)
    content = buffer.getvalue()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst, largest = 0.0, max(float(expected.abs().max()), 1.0)
    for batch, right in ((images, expected), (images[:1], one)):
        (found,) = session.run(["logits"], {"image": batch.numpy()})
        if found.shape != tuple(right.shape):
            raise ValueError(f"{path}: onnxruntime gives logits {found.shape}, PyTorch {tuple(right.shape)}")
        worst = max(worst, float(np.abs(found - right.numpy()).max()))
    if not worst <= _TOLERANCE * largest:
        raise ValueError(
            f"{path}: not written, onnxruntime and PyTorch differ by {worst:.3g} (the largest logit is {largest:.3g})"
        )
    write(path, lambda file: file.write(content))
    return worst


def _program(module: nn.Module, images: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    with _quiet(), torch.no_grad():
        try:
            return torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes={"image": {0: batch}},
                verbose=False,
            )
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(f"the network cannot be exported to ONNX: {first}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks, and without the fused attention that ONNX does not have."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fast)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"ONNX needs the package {name}: pip install pipa-rs[export]") from None
