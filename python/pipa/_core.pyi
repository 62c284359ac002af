"""Native part of pipa. Public functions are documented in `pipa.functional`."""

from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = [
    "TOY_CLASSES",
    "TOY_EDITION",
    "TOY_PALETTE",
    "DTypeError",
    "DeviceError",
    "NonFiniteError",
    "ShapeError",
    "Step",
    "__version__",
    "_set_fused",
    "accuracy",
    "block_mask",
    "blur_kernel_size",
    "choose_anchors",
    "class_counts",
    "class_mask",
    "class_mix",
    "color_jitter",
    "confusion_matrix",
    "contrast",
    "crop_patches",
    "cross_entropy",
    "depthwise",
    "depthwise_weight_gradient",
    "distribution_contrast",
    "downscale_label",
    "draw_augment",
    "draw_class_mask",
    "draw_classes",
    "draw_patches",
    "ema_update",
    "feature_distance_loss",
    "gaussian_blur",
    "label_convert",
    "label_read",
    "label_store",
    "label_summary",
    "load_crop",
    "mask_grid",
    "memory_bank",
    "patch_contrast",
    "patch_contrast_gated",
    "patch_overlap",
    "pixel_contrast",
    "pixel_contrast_map",
    "png_read_bgr",
    "png_size",
    "prototype_consistency",
    "prototype_update",
    "prototype_weights",
    "pseudo_label",
    "rectified_label",
    "rng_state",
    "settings_schema",
    "strong_augment",
    "symmetric_cross_entropy",
    "toy_draw",
]

__version__: str

class ShapeError(ValueError): ...
class DTypeError(TypeError): ...
class DeviceError(ValueError): ...
class NonFiniteError(ArithmeticError): ...

TOY_CLASSES: list[str]
TOY_PALETTE: list[tuple[int, int, int]]
TOY_EDITION: int

def toy_draw(
    domain: str, indices: list[int], seed: int, height: int, width: int
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]: ...

_Box = tuple[int, int, int, int]
_State = tuple[int, int, int, int] | list[int]

def contrast(
    anchor: Tensor,
    key: Tensor | None,
    anchor_label: Tensor | None,
    key_label: Tensor | None,
    index: Tensor | None,
    temperature: float,
    exclude_self: bool,
    tile: tuple[int, int] | None,
) -> Tensor: ...
def pixel_contrast(
    feat: Tensor, label: Tensor, temperature: float, base_temperature: float, formulation: str
) -> Tensor: ...
def pixel_contrast_map(
    embedding: Tensor,
    label: Tensor,
    prediction: Tensor | None,
    settings: dict[str, Any],
    rng: _State,
    bank: tuple[Tensor, Tensor, Tensor] | None,
) -> tuple[Tensor, list[int]]: ...
def memory_bank(classes: int, capacity: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...
def rng_state(seed: int, stream: int) -> list[int]: ...
def choose_anchors(
    label: Tensor,
    prediction: Tensor | None,
    priority: Tensor | None,
    max_anchors: int,
    max_per_class: int,
    min_pixels: int,
    ignore_index: int,
    per_image: bool,
    rng: _State,
) -> tuple[Tensor, Tensor, list[int]]: ...
def patch_contrast(
    patch1: Tensor,
    patch2: Tensor,
    overlap1: _Box,
    overlap2: _Box,
    flip1: bool,
    flip2: bool,
    labels: tuple[Tensor, Tensor] | None,
    temperature: float,
) -> Tensor: ...
def patch_contrast_gated(
    feat1: Tensor,
    feat2: Tensor,
    bank: Tensor,
    bank_label: Tensor,
    label1: Tensor,
    label2: Tensor,
    conf1: Tensor,
    conf2: Tensor,
    temperature: float,
    confidence: float,
    chunk: int,
) -> tuple[Tensor, Tensor]: ...
def draw_patches(
    height: int,
    width: int,
    size: tuple[int, int],
    min_iou: float,
    max_iou: float,
    flip: bool,
    align: int,
    rng: _State,
) -> tuple[tuple[_Box, _Box, bool, bool], list[int]]: ...
def crop_patches(image: Tensor, box1: _Box, box2: _Box, flip1: bool, flip2: bool) -> tuple[Tensor, Tensor]: ...
def patch_overlap(
    box1: _Box, box2: _Box, flip1: bool, flip2: bool, feature_size: tuple[int, int]
) -> tuple[_Box, _Box]: ...

_Jitter = tuple[float, float, float, float, list[int]]
_Draw = tuple[_Jitter | None, float | None]

def pseudo_label(
    logits: Tensor, threshold: float, ignore_top: int, ignore_bottom: int, valid_mask: Tensor | None
) -> tuple[Tensor, Tensor]: ...
def draw_classes(label: Tensor, num_classes: int, ignore_index: int, scope: str, seed: int) -> list[list[int]]: ...
def draw_class_mask(label: Tensor, num_classes: int, ignore_index: int, scope: str, seed: int) -> Tensor: ...
def class_mask(label: Tensor, classes_per_image: list[list[int]]) -> Tensor: ...
def class_mix(mask: Tensor, source: Tensor, target: Tensor) -> Tensor: ...
def gaussian_blur(image: Tensor, sigma: float, kernel_size: tuple[int, int]) -> Tensor: ...
def blur_kernel_size(height: int, width: int) -> tuple[int, int]: ...
def color_jitter(image: Tensor, draws: list[_Jitter]) -> Tensor: ...
def strong_augment(image: Tensor, draws: list[_Draw], mean: list[float], std: list[float]) -> Tensor: ...
def draw_augment(
    batch: int, seed: int, jitter_strength: float, jitter_probability: float, blur_probability: float
) -> list[Any]: ...
def block_mask(uniform: Tensor, ratio: float, height: int, width: int) -> Tensor: ...
def mask_grid(height: int, width: int, block: int) -> tuple[int, int]: ...
def ema_update(teacher_params: list[Tensor], student_params: list[Tensor], iteration: int, alpha: float) -> None: ...
def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int, average: str) -> Tensor: ...
def accuracy(logits: Tensor, label: Tensor, ignore_index: int, average: str) -> Tensor: ...
def downscale_label(label: Tensor, scale: int, min_ratio: float, num_classes: int, ignore_index: int) -> Tensor: ...
def feature_distance_loss(
    feat: Tensor,
    feat_imagenet: Tensor,
    label: Tensor,
    classes: list[int] | None,
    min_ratio: float,
    num_classes: int,
    weight: float,
    ignore_index: int,
    form: str,
) -> Tensor: ...
def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> Tensor: ...
def class_counts(label: Tensor, num_classes: int, ignore_index: int) -> Tensor: ...
def depthwise(map: Tensor, weight: Tensor, dilation: int, mirrored: bool) -> Tensor: ...
def depthwise_weight_gradient(
    map: Tensor, grad: Tensor, size: int, stride: int, padding: int, dilation: int
) -> Tensor: ...
def _set_fused(on: bool) -> bool: ...
def settings_schema() -> str: ...

@final
class Step:
    """Settings, counter, random numbers and memory bank of the iteration; `pipa.PipaStep` is its public face."""

    def __new__(cls, settings: dict[str, Any], seed: int = ...) -> Step: ...
    @property
    def settings_json(self) -> str: ...
    iteration: int
    rng_state: list[int]
    bank: tuple[Tensor, Tensor, Tensor] | None
    prototypes: tuple[Tensor, Tensor] | None
    distribution: tuple[Tensor, Tensor, Tensor] | None
    def run(
        self,
        networks: Any,
        source: Tensor,
        source_label: Tensor,
        target: Tensor,
        valid_mask: Tensor | None = None,
        draws: dict[str, Any] | None = None,
        gradients: bool = False,
        check_finite: bool = False,
        group: Any = None,
    ) -> tuple[list[tuple[str, Tensor]], dict[str, Any] | None]: ...

_Summary = tuple[int, int, list[tuple[int, int]]]

def label_convert(
    source: str, target: str, table: list[tuple[int, int]], ignore: int = 255, red: bool = False
) -> _Summary: ...
def label_store(target: str, label: npt.NDArray[np.uint8]) -> _Summary: ...
def label_summary(path: str) -> _Summary: ...
def png_size(path: str) -> tuple[int, int]: ...
def png_read_bgr(path: str) -> npt.NDArray[np.uint8] | None: ...
def load_crop(
    name: str,
    image: str | npt.NDArray[np.uint8],
    label: str | npt.NDArray[np.uint8] | None,
    plan: dict[str, Any],
    seed: list[int],
    table: bytes | None = None,
    wanted: tuple[int, float, int] | None = None,
    bgr: bool = True,
) -> (
    tuple[
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint8] | None,
        npt.NDArray[np.uint8] | None,
        tuple[int, int],
        tuple[int, int],
        tuple[int, int] | None,
        bool,
        int,
    ]
    | None
): ...
def label_read(path: str) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]: ...
def prototype_weights(feat: Tensor, proto: Tensor, temperature: float, seen: Tensor | None) -> Tensor: ...
def prototype_update(
    proto: Tensor, feat: Tensor, label: Tensor, momentum: float, min_pixels: int, ignore_index: int
) -> Tensor: ...
def rectified_label(prob: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]: ...
def symmetric_cross_entropy(
    logits: Tensor, label: Tensor, ce: float, rce: float, floor: float, ignore_index: int
) -> Tensor: ...
def prototype_consistency(
    feat_student: Tensor,
    feat_teacher: Tensor,
    proto: Tensor,
    temperature: float,
    valid: Tensor | None,
    seen: Tensor | None,
) -> Tensor: ...
def distribution_contrast(
    embedding: Tensor,
    label: Tensor,
    mean: Tensor,
    var: Tensor,
    temperature: float,
    ignore_index: int,
    seen: Tensor | None,
) -> Tensor: ...
