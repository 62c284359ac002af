"""Types, defaults and checks of all settings: of the iteration (:class:`StepSettings`) and of the hook.

The settings of the iteration are defined once, in the Rust core (``src/step/settings``), with default, range, unit and
reason. ``tools/settings.py`` writes the part between the two marks below and the tables of docs/settings.md from it.

Example:
    A function of your own that passes settings on, so that a type checker knows every name and value::

        def train(student: nn.Module, **settings: Unpack[StepSettings]) -> PipaStep:
            return PipaStep(student, num_classes=19, **settings)
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from pipa import _core

# --- made by tools/settings.py from the Rust core ---
LabelNetwork = Literal["teacher", "initial"]
"""``"teacher"``: The teacher as it is at this iteration. ``"initial"``: The network that the training started from,
which stays fixed (ProDA).
"""
LabelWeight = Literal["share", "confident"]
"""``"share"``: The share of sure pixels of the batch, for all pixels alike. ``"confident"``: 1 for sure pixels, 0
for the others.
"""
ClassScope = Literal["per_image", "batch"]
"""``"per_image"``: The classes that the image shows; the ignored id is not a class. ``"batch"``: The released code:
the ids of the whole batch, the ignored id among them. An image may then get classes that it does not show. Needed
only to repeat its numbers.
"""
Average = Literal["all", "valid"]
"""``"all"``: All pixels, ignored ones too, as in the released code: the published learning rates were tuned with
it. ``"valid"``: Labelled pixels only, so that the loss does not depend on the share of ignored ones.
"""
Sampling = Literal["balanced", "all"]
"""``"balanced"``: A class-balanced draw, half of it where the network errs. ``"all"``: Every labelled pixel,
exactly; the streaming kernel needs no pair matrix, but time grows with the square.
"""
PatchSource = Literal["mixed", "target"]
"""``"mixed"``: The mixed image (the text of the paper). ``"target"``: The target image (the figure of the paper)."""
PatchNegatives = Literal["all", "other_classes"]
"""``"all"``: All but the pair itself (the paper). ``"other_classes"``: Those of another label: pasted pixels have
the source's, the others their pseudo-label. The released code takes its negatives so, out of a memory bank.
"""
DistanceForm = Literal["euclidean", "cosine"]
"""``"euclidean"``: Euclidean norm of their difference (DAFormer). ``"cosine"``: 0.9 (1 - cosine) + 0.1 smooth L1,
the mean over channels (foundation encoders; VFM-UDA++).
"""
MaskKind = Literal["pixels", "tokens"]
"""``"pixels"``: Pixels of the image, which become its mean. ``"tokens"``: Patch embeddings of a transformer, which
become its mask token: it sees no trace of what is hidden.
"""


class StepSettings(TypedDict, total=False):
    """Settings of one PiPa iteration, except ``num_classes``, which is an argument of its own."""

    ignore_index: int
    """Label id of pixels without a class; never a class of anchors. The released code has -1 in the pixel loss,
    while its data has 255. Default 255.
    """
    mean: Sequence[float]
    """Mean the images were normalised with (ImageNet's, RGB, 0..255): jitter and blur work on images in [0, 1]. The
    hook takes it from the data preprocessor. Default [123.675, 116.28, 103.53].
    """
    std: Sequence[float]
    """Standard deviation, likewise. Default [58.395, 57.12, 57.375], > 0."""
    alpha: float
    """Largest decay of the teacher: min(1 - 1/(t+1), alpha), a mean over the last thousand iterations. Default
    0.999, [0, 1].
    """
    threshold: float
    """From this probability on a pixel is sure; the share of sure pixels weighs the pseudo-labels of the batch.
    Default 0.968, [0, 1].
    """
    ignore_top: int
    """Rows at the top of each crop without pseudo-labels. Released code: 15 for DAFormer. The shipped configs use
    ``PseudoMargins`` instead, which follows the image, not the crop. Default 0, >= 0, pixels.
    """
    ignore_bottom: int
    """Rows at the bottom, likewise (bonnet of the car). Released code: 120 for DAFormer. Default 0, >= 0, pixels."""
    label_network: LabelNetwork
    """Whose softmax the pseudo-labels are taken from. Default "teacher"."""
    label_flip: bool
    """The teacher's logits are the mean over the image and its mirror image: one more of its passes. Default False."""
    label_weight: LabelWeight
    """What a pseudo-label weighs. Default "share"."""
    mix_weight: float
    """Factor of the cross entropy on mixed images, as in the paper. 0 leaves it out. Default 1.0, >= 0."""
    mix_classes: ClassScope
    """Which classes ClassMix draws half of. Default "per_image"."""
    loss_average: Average
    """What cross entropy and accuracy are divided by. Default "all"."""
    jitter_strength: float
    """Strength of the colour jitter of mixed images. Default 0.2, >= 0."""
    jitter_probability: float
    """Probability that it is applied. The released ``color_jitter_probability=0.2`` is the probability that it is
    not. Default 0.8, [0, 1].
    """
    blur_probability: float
    """Probability of a Gaussian blur with sigma 0.15 to 1.15. Default 0.5, [0, 1]."""
    pixel_weight: float
    """alpha of the total loss, as in the paper; 0 switches the term off. Default 0.1, >= 0."""
    pixel_temperature: float
    """tau of the paper. Default 0.1, > 0."""
    pixel_sampling: Sampling
    """Which pixels are anchors and keys. Default "balanced"."""
    pixel_max_anchors: int
    """Anchors per batch: bounds time and memory. Default 1024, >= 2, pixels."""
    pixel_max_per_class: int
    """Anchors per class, so that road does not crowd out signs. Default 100, >= 2, pixels."""
    pixel_min_pixels: int
    """A class with fewer embedded pixels is not drawn: one pixel has no positive. Released code: 101, which leaves
    rare classes out, the very ones that need it. Default 2, >= 1, pixels.
    """
    pixel_memory_bank: int
    """Features per class kept from earlier iterations as further keys; none in the paper. Default 0, >= 0, features."""
    pixel_target: bool
    """Also the mixed images, where their label counts (with ``label_weight="confident"``: where it is sure), so
    that pixels of source and target are each other's positives; otherwise source images alone, as in the paper.
    Default False.
    """
    patch_weight: float
    """beta of the total loss, as in the paper; 0.01 in the released HRDA tree. 0 switches the term off. Default
    0.1, >= 0.
    """
    patch_temperature: float
    """As for pixels. Default 0.1, > 0."""
    patch_warmup: int
    """Iterations before the term starts: early features and mixed images are noise. For short trainings set it
    below ``max_iters``. Default 10000, >= 0, iterations.
    """
    patch_size: Sequence[int]
    """Height and width of the two crops, the paper's best at 1024 pixels. It must fit into the training crop: the
    640 configs use 448, the same share. Default [720, 720], >= 1, pixels.
    """
    patch_iou: Sequence[float]
    """Range of the intersection over union of the two crops: from hardly overlapping to equal. Default [0.1, 1.0],
    [0, 1].
    """
    patch_align: int
    """Crop offsets are multiples of this output stride, so that feature cells of both crops look at the same
    pixels. Pairs of the released HRDA tree lie 252 pixels apart. Default 8, >= 1, pixels.
    """
    patch_flip: bool
    """Each crop is mirrored with probability one half. Default True."""
    patch_source: PatchSource
    """Image the crops are cut from. Default "mixed"."""
    patch_negatives: PatchNegatives
    """Which features of the crops repel. Default "all"."""
    distribution_weight: float
    """Factor of the contrast with the running distribution of each class (SePiCo), on the pixel embedding: beside
    the pixel contrast or, with ``pixel_weight`` 0, in its place. 0 switches it off. Default 0.0, >= 0.
    """
    distribution_temperature: float
    """t of its equation. Default 0.1, > 0."""
    distribution_momentum: float
    """Largest decay of mean and variance: min(1 - 1/(u+1), this) after u batches with the class. Default 0.999, [0,
    1].
    """
    distribution_target: bool
    """Also the mixed images, where their label counts; otherwise source images alone. Default False."""
    prototype_labels: bool
    """Pseudo-labels are corrected by the distances to the class prototypes (ProDA, equation 5). Default False."""
    prototype_temperature: float
    """tau of the softmax over distances, 1 in the paper. Distances grow with the root of the number of channels.
    Default 1.0, > 0.
    """
    prototype_momentum: float
    """Largest decay of the prototypes, as in the paper. Default 0.9999, [0, 1]."""
    prototype_min_pixels: int
    """A class with fewer pixels in the batch, on the grid of the features, is left alone. Default 10, >= 1, pixels."""
    prototype_layer: int | Literal["head"]
    """Map that prototypes live on: of the encoder, from shallow to deep (-1: the deepest), or "head": what the main
    head classifies, as in ProDA. Default -1.
    """
    target_weight: float
    """Factor of the cross entropy on a strong view of the unmixed target: 1 in ProDA. 0 leaves it out. Default 0.0,
    >= 0.
    """
    target_ce: float
    """Factor of cross entropy in it: 0.1 in stage 1 of ProDA, where labels are wrong; 1 in its stages 2 and 3.
    Default 0.1, >= 0.
    """
    target_rce: float
    """Factor of reverse cross entropy in it: 1 in stage 1, 0 in stages 2 and 3. Default 1.0, >= 0."""
    structure_weight: float
    """Factor of the divergence between teacher and student in their place among the prototypes: 10 in stage 1.
    Default 0.0, >= 0.
    """
    regularizer_weight: float
    """Factor of the mean of -log p over classes, against collapse to one: 0.1 in stage 1. Default 0.0, >= 0."""
    distillation_weight: float
    """Factor of the divergence from the network that the training started from: 1 in stages 2 and 3. Default 0.0,
    >= 0.
    """
    feature_distance_weight: float
    """DAFormer's lambda; 0 switches it off; 0.1 with the cosine form (VFM-UDA++). Of use only where the encoder
    starts from pretrained weights. Default 0.005, >= 0.
    """
    feature_distance_form: DistanceForm
    """How far features are from those of the encoder that the training started from. Default "euclidean"."""
    feature_distance_target: bool
    """Also on the target image, at all its positions: one more pass of student and frozen encoder. Default False."""
    feature_distance_classes: Sequence[int] | None
    """On the source: classes whose features stay near ImageNet's; None: all. The shipped configs name the ten thing
    classes of Cityscapes. Default None, >= 0.
    """
    feature_distance_min_ratio: float
    """A cell of the feature map counts if this share of it is one class. Default 0.75, [0, 1]."""
    mask_weight: float
    """Factor of MIC's term: off in PiPa, 1 in MIC. Default 0.0, >= 0."""
    mask_kind: MaskKind
    """What is hidden. Default "pixels"."""
    mask_block: int
    """Side of a masked block: what is hidden cannot be read off its neighbours. Default 64, >= 1, pixels."""
    mask_ratio: float
    """Share of blocks that are masked. Default 0.7, [0, 1]."""
    mask_augment: bool
    """Jitter and blur on the masked image too. Default True."""


# --- end of what tools/settings.py makes ---

NonFinite = Literal["stop", "skip"]
ProjectionLayers = Sequence[int] | Literal["head"] | None


class HookSettings(StepSettings, total=False):
    """What :class:`pipa.mmseg.PipaHook` takes beside its loader: its own arguments and those of the iteration."""

    num_classes: int | None
    """Number of classes; from the decode head when not given."""
    pixel_dim: int
    """Channels of the pixel embedding (256 in the paper)."""
    patch_dim: int
    """Channels of the patch embedding (128 in the paper)."""
    projection_hidden: int | None
    """Channels between the two convolutions of a projection head; None: the sum of the encoder's channels."""
    projection_layers: ProjectionLayers
    """Maps that the embeddings see: positions of the encoder's (-1: the deepest), None for all of these, "head" for the
    one that the decode head classifies."""
    evaluate_teacher: bool
    """Each validation evaluates the teacher too; its metrics are logged and saved under ``teacher/``."""
    joined: bool
    """With several processes, terms and draws are those of the joined batch, as if one process had it all."""
    prototype_batches: int
    """Batches of target images whose class means are the first prototypes; 0: those of the first iterations."""
    initial_labels: str | None
    """Folder of soft labels that stand for the network that the training starts from (``pipa soft-labels``)."""
    gradient_interval: int
    """Log the gradient norms of each term, of student and encoder, every that many iterations; 0: never."""
    check_interval: int
    """On accelerators, look for NaN and infinity every that many iterations (each look waits for the device)."""
    nonfinite: NonFinite
    """What a NaN or infinite loss or gradient does: stop the training, or skip the iteration on all processes."""
    nonfinite_limit: int
    """With ``"skip"``, so many iterations in a row stop the training."""
    compile: bool | dict[str, Any]
    """True, or arguments of ``torch.compile``: encoders and decode heads run compiled."""
    activation_checkpointing: str | Sequence[str]
    """Modules of the model that keep only their input for the backward pass and compute the rest again."""
    channels_last: bool
    """Networks keep maps pixel by pixel instead of channel by channel."""


HOOK_DEFAULTS: dict[str, Any] = {
    "num_classes": None,
    "pixel_dim": 256,
    "patch_dim": 128,
    "projection_hidden": 256,
    "projection_layers": None,
    "evaluate_teacher": True,
    "joined": True,
    "prototype_batches": 0,
    "initial_labels": None,
    "gradient_interval": 0,
    "check_interval": 50,
    "nonfinite": "stop",
    "nonfinite_limit": 10,
    "compile": False,
    "activation_checkpointing": [],
    "channels_last": False,
}
"""What the hook takes beside the settings of the iteration, with its defaults."""


def schema() -> list[dict[str, Any]]:
    """Every setting of the iteration: name, section, type, choices, default, range, unit, doc."""
    return json.loads(_core.settings_schema())


def default_settings() -> dict[str, Any]:
    """All settings of the iteration with their defaults (see docs/settings.md)."""
    return {entry["name"]: entry["default"] for entry in schema()}


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that are no settings.

    Raises:
        ValueError: names the nearest known one.
    """
    known = sorted(set(known))
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown setting {name!r}; {hint}")


def native_step(settings: Mapping[str, Any], seed: int) -> _core.Step:
    """Check ``settings`` and make the native step.

    Raises:
        ValueError: an unknown name, or a value that does not fit; the message names the setting, what is expected and
            what came.
    """
    check_names(settings, default_settings())
    return _core.Step(dict(settings), seed)
