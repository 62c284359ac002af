"""What can be known to go wrong with a step: at its making and at the first images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipa import functional
from pipa.group import Group
from pipa.networks.base import Networks
from pipa.networks.plain import PlainNetworks
from pipa.networks.trial import REFUSALS, Trial, blank, evaluating, sizes, unchanged_draws

# Images hold 0..255; what lies this far out was not normalised with the mean and std given.
FAR = 2550
# So many pairs of crops are drawn to see whether there are any, for every way in which they may be mirrored.
TRIES = 32


class Step(Protocol):
    """What is asked of a :class:`pipa.PipaStep`."""

    group: Group | None
    _trial: Trial | None
    _checked: set[tuple[int, ...]]

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def networks(self) -> Networks: ...


def pixel_values(settings: Mapping[str, Any], image_max: float | None) -> dict[str, Any]:
    """Settings with mean and std in 0..255, where the images were normalised from 0..1.

    (v - m) / s is the same number for v, m and s in 0..1 and in 0..255, so nothing else has to change. What is no list
    of numbers is left as it is: the settings' own check names it.
    """
    both = "mean" in settings and "std" in settings
    if image_max is not None and not image_max > 0:
        raise ValueError(f"image_max must be positive, got {image_max}")
    if image_max not in (None, 255) and not both:
        raise ValueError(f"image_max={image_max:g} needs mean= and std= on that scale")
    try:
        given = {name: [float(v) for v in settings[name]] for name in ("mean", "std")} if both else {}
    except (TypeError, ValueError):
        return dict(settings)
    if image_max is None:
        values = [abs(v) for numbers in given.values() for v in numbers]
        image_max = 1.0 if values and max(values) <= 1 else 255.0
    scale = 255.0 / image_max
    return dict(settings) if scale == 1 else {**settings, **{n: [v * scale for v in vs] for n, vs in given.items()}}


def default_align(settings: dict[str, Any], trial: Trial) -> int:
    """Places of the patches when nobody says: multiples of 8, or of the encoder's stride where 8 is none of them."""
    align, stride = int(settings["patch_align"]), trial.stride
    return align if stride is None or align % stride == 0 else stride


def check_teacher(networks: PlainNetworks, student: nn.Module, teacher: nn.Module) -> None:
    """Whether the teacher runs on layers of its own, and gives one answer for one image.

    Raises:
        ValueError: it calls layers of the student, as the copy of a network does whose forward somebody has replaced.

    Warns:
        UserWarning: two of its passes over one image differ, although every layer has been told not to train.
    """
    calls: list[nn.Module] = []
    handles = [layer.register_forward_pre_hook(lambda m, _inputs: calls.append(m)) for layer in student.modules()]
    answers: list[Tensor] = []
    try:
        with torch.no_grad(), evaluating(teacher), unchanged_draws():
            for size in sizes(teacher):
                try:
                    grey = blank(teacher, size)
                    ramp = torch.linspace(-2, 2, grey.numel(), device=grey.device, dtype=grey.dtype).view_as(grey)
                    answers = [networks.logits(teacher, ramp) for _ in range(2)]
                    break
                except REFUSALS:
                    continue  # the first images will tell
            noisy = len(answers) == 2 and not torch.equal(*answers)
    except RuntimeError:
        noisy = False  # tensors without values
    finally:
        for handle in handles:
            handle.remove()
    if calls:
        raise ValueError(
            f"teacher: the copy of {type(student).__name__} runs layers of the student, because its forward was "
            "replaced by a wrapper; make the step before wrapping, or pass teacher="
        )
    if noisy:
        warnings.warn(
            "the teacher's answers to one image differ: a layer draws random numbers in evaluation mode too, and the "
            "pseudo-labels will be noisy",
            stacklevel=4,
        )


def check_call(step: Step, source: Tensor, target: Tensor, look: bool) -> None:
    """Refuse what can never work with images of this size. Done once for each size, and it waits for no accelerator.

    Raises:
        ValueError: names the setting, what fits and what came.
    """
    for name, image in (("source image", source), ("target image", target)):
        if not isinstance(image, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor (B, 3, H, W), got {type(image).__name__}")
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "PipaStep: expected gradients to be on, got a call inside torch.no_grad() or torch.inference_mode(), "
            "where the student would learn nothing"
        )
    shape = tuple(source.shape)
    if len(shape) != 4 or target.shape != source.shape or shape in step._checked:
        return  # wrong shapes are refused by the iteration itself
    settings, height, width = step.settings, shape[2], shape[3]
    if not step._checked and not step.networks._student.training:
        warnings.warn("the student is in evaluation mode: call student.train() before training", stacklevel=4)
    if not any(p.requires_grad for p in step.networks._student.parameters()):
        raise ValueError("student: expected parameters to train, got none that requires a gradient")
    _check_margins(settings, height)
    _check_pixels(step, settings, shape)
    if settings["patch_weight"] > 0:
        _check_patches(step, settings, height, width)
    if settings["prototype_labels"] and settings["label_network"] == "teacher" and not step._checked:
        warnings.warn(
            "prototype_labels with label_network='teacher': the teacher learns what the prototypes corrected and is "
            "corrected again, and labels have drifted so in long trainings (docs/results.md); ProDA corrects a fixed "
            "network that is trained already: label_network='initial'",
            stacklevel=4,
        )
    if source.is_floating_point() and (look or source.device.type == "cpu"):
        _check_range(settings, source)
    elif source.device.type != "cpu":
        return  # not done yet: values are looked at where the caller asks for a look
    step._checked.add(shape)


def _check_margins(settings: dict[str, Any], height: int) -> None:
    top, bottom = settings["ignore_top"], settings["ignore_bottom"]
    uses = settings["mix_weight"] > 0 or settings["mask_weight"] > 0
    if uses and top + bottom >= height:
        raise ValueError(
            f"ignore_top {top} and ignore_bottom {bottom} leave no row of the {height} rows of an image, so no "
            "pseudo-label would ever count"
        )


def _check_pixels(step: Step, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    stride = None if step._trial is None else step._trial.stride
    if settings["pixel_weight"] == 0 or settings["pixel_sampling"] != "balanced":
        return
    # A group draws its anchors over the batches of all processes.
    images = shape[0] * (1 if step.group is None else step.group.world)
    side = stride or 1
    most = images * -(-shape[2] // side) * -(-shape[3] // side)
    if settings["pixel_min_pixels"] > most:
        raise ValueError(
            f"pixel_min_pixels {settings['pixel_min_pixels']}: the maps of {images} images of {shape[2]} x {shape[3]} "
            f"have {most} pixels, so no class would ever have as many"
        )


def _check_patches(step: Step, settings: dict[str, Any], height: int, width: int) -> None:
    patch, align, trial = settings["patch_size"], settings["patch_align"], step._trial
    size = (int(patch[0]), int(patch[1]))
    if size[0] > height or size[1] > width:
        period = align if trial is None or trial.stride is None else max(align, trial.stride)
        fitting = [max(n * 7 // 10 // period, 1) * period for n in (height, width)]
        raise ValueError(
            f"patch sampler: patch_size {list(size)} does not fit into images of {height} x {width}; set, for example, "
            f"{fitting}"
        )
    cells = None if trial is None else trial.patch_cells
    if trial is not None and trial.stride is not None and align % trial.stride != 0:
        raise ValueError(
            f"patch_align {align}: expected a multiple of the encoder's stride {trial.stride}, else the cells of two "
            "patches do not look at the same pixels"
        )
    low, high = settings["patch_iou"]
    for seed in range(TRIES if settings["patch_flip"] else 1):
        try:
            one, two, flip1, flip2 = functional.draw_patches(
                height, width, size, min_iou=low, max_iou=high, flip=settings["patch_flip"], align=align, seed=seed
            )
            if cells is not None:
                functional.patch_overlap(one, two, cells, flip1, flip2)
        except ValueError as error:
            fit = [max(n // align, 1) * align for n in size]
            raise ValueError(
                f"patch_size {list(size)}, patch_align {align}: {error}; multiples of patch_align, such as {fit}, have "
                "more places"
            ) from error


def _check_range(settings: dict[str, Any], source: Tensor) -> None:
    """Values far outside of an image's, which show that mean and std are not those it was normalised with."""
    channels = source.shape[1]
    if len(settings["mean"]) not in (1, channels):
        return  # refused by the augmentation, which names both
    flat = source.detach().float().transpose(0, 1).flatten(1)
    mean, std = (torch.tensor(settings[name], device=flat.device)[:, None] for name in ("mean", "std"))
    least, most = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    low, high = float((least * std + mean).min()), float((most * std + mean).max())
    if low < -FAR or high > FAR:
        raise ValueError(
            f"source image: with mean {settings['mean']} and std {settings['std']} (for values of 0..255) it would "
            f"have values of {low:.0f} to {high:.0f}: give the step the mean and std of the images' normalisation, "
            "and image_max=255 or 1 for the scale they are on"
        )
    span = float(most.max() - least.min())
    if least.min() >= -1 and most.max() <= 1 and 0 < span < float((255 / std).min()) / 2:
        warnings.warn(
            f"source image: its values, {float(least.min()):.2f} to {float(most.max()):.2f}, look as if mean "
            f"{settings['mean']} and std {settings['std']} (for values of 0..255) were not those of its normalisation; "
            "pass mean=, std= and image_max=",
            stacklevel=5,
        )


# A term that has been 0 so many times in a row is told about.
SOON = 3
# What may take its time: pseudo-labels, and distances from a network that the student starts as a copy of.
LATE = 100
TIMES = {
    f"loss_{name}": LATE
    for name in (
        "mask",
        "target",
        "pixel_mix",
        "distribution_mix",
        "feature_distance_target",
        "structure",
        "distillation",
    )
}


# A contrast of one pair is log(exp(x)) - x, which not every torch rounds to 0: x is up to 10, times a weight of 0.1.
ROUNDING = 3e-7


class SilentTerms:
    """Counts the zeros of each term, and tells once why one stays 0."""

    def __init__(self) -> None:
        self.zeros: dict[str, int] = {}

    def look(self, scalars: Mapping[str, Tensor], settings: Callable[[], Mapping[str, Any]]) -> list[str]:
        """What to tell about these scalars; reading them waits for an accelerator."""
        watched = [name for name in scalars if name.startswith("loss_") and self.zeros.get(name, 0) >= 0]
        values = torch.stack([scalars[name].float() for name in watched]).tolist() if watched else []  # one read
        told = []
        for name, value in zip(watched, values, strict=True):
            self.zeros[name] = self.zeros.get(name, 0) + 1 if abs(value) < ROUNDING else 0
            if self.zeros[name] >= TIMES.get(name, SOON):
                told.append(f"{name} has been 0 for {self.zeros[name]} iterations: {self.reasons(settings())[name]}")
                self.zeros[name] = -1
        return told

    @staticmethod
    def reasons(settings: Mapping[str, Any]) -> dict[str, str]:
        """Term -> what can make it 0."""
        balanced = settings["pixel_sampling"] == "balanced"
        pixels = f"pixel_min_pixels={settings['pixel_min_pixels']}" if balanced else "two"
        sure = f"no target pixel is surer than threshold={settings['threshold']}, or none lies inside the valid mask"
        outside = "no target pixel lies inside the valid mask"
        classes = settings["feature_distance_classes"]
        return {
            "loss_source": "every pixel of the source labels is ignored",
            "loss_pixel": f"no class of the source labels has {pixels} pixels on the encoder's map",
            "loss_distribution": "no pixel of the source labels counts on the encoder's map",
            "loss_feature_distance": (
                f"no cell of the encoder's map shows one of the feature_distance_classes="
                f"{'all' if classes is None else list(classes)} on a share of "
                f"feature_distance_min_ratio={settings['feature_distance_min_ratio']} of its pixels"
            ),
            "loss_mix": f"no pixel of the source labels that was pasted counts, and {sure}",
            "loss_pixel_mix": f"no class of the mixed labels that count has {pixels} pixels on the encoder's map",
            "loss_distribution_mix": f"no pixel of the source labels that was pasted counts, and {sure}",
            "loss_patch": "a patch is one cell of the encoder's map, and the batch has no other: enlarge patch_size",
            "loss_mask": sure,
            "loss_feature_distance_target": f"the student's features are still the frozen encoder's, or {outside}",
            "loss_target": f"{sure}, or target_ce and target_rce are 0",
            "loss_structure": (
                f"fewer than two classes have a prototype (a class needs prototype_min_pixels="
                f"{settings['prototype_min_pixels']} pixels of the teacher's labels), or {outside}"
            ),
            "loss_regularizer": outside,
            "loss_distillation": (
                f"the student's answers are still those of the network that the training started from, or {outside}"
            ),
        }
