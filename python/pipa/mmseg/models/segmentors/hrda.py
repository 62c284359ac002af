"""HRDA: context at half resolution, detail in a crop, fused by attention (Hoyer et al., HRDA, ECCV 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from mmseg.models.losses import accuracy
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from pipa.inference.tiling import Window, slide, windows
from pipa.mmseg.models.decode_heads.hrda import HRDAHead, ScaleFeatures, ScaleLogits
from pipa.mmseg.models.segmentors.own_losses import head_losses, is_plain, main_weight, plain_weight
from pipa.mmseg.models.segmentors.step_adapter import Maps, crop, encode
from pipa.mmseg.models.sliding import Draws, TorchDraws, random_box
from pipa.networks import Head, Outputs, OwnOutputs, Region
from pipa.networks.quiet import uses_batch_statistics


@MODELS.register_module()
class HRDAEncoderDecoder(EncoderDecoder):
    """Segmentor that sees an image twice: all of it at a small scale, and detail crops of it at full scale.

    Training uses one random detail crop; prediction (and the teacher) slides the detail crop over the whole image.

    Args:
        scales: the context and the detail scale, in any order; the detail scale is 1. A single scale gives an ordinary
            segmentor on the image resized by it.
        hr_crop_size: ``(height, width)`` of the detail crop in pixels; None: the whole image is the detail.
        hr_slide_inference: prediction slides over the detail; False: one pass over the whole image at full scale.
        hr_slide_overlapping: windows overlap by half, else they lie side by side.
        feature_scale: scale of the maps :meth:`backbone_features` returns (for the ImageNet feature distance and the
            patch term); 1 costs one more pass of the encoder, over the whole image at full scale.
        crop_coord_divisible: offsets of the detail crop are multiples of this; 8 keeps them on the cells of the context
            head (output stride 4 at scale 0.5).
        crops_per_pass: detail crops that a prediction encodes at once; bounds its memory, whatever the image's size.
        kwargs: those of ``EncoderDecoder``; ``decode_head`` is an ``HRDAHead``; ``test_cfg`` may set
            ``mode="slide", crop_size, stride`` and ``batched_slide=True`` (four windows in one pass).

    Attributes:
        rng: object with ``randint(low, high)`` that draws the crops (row, then column); torch's generator by default.

    >>> import torch
    >>> import pipa.mmseg
    >>> from mmseg.registry import MODELS
    >>> backbone = dict(type="MiT", arch="b0")
    >>> head = dict(in_channels=[32, 64, 160, 256], channels=16, num_classes=19, norm_cfg=dict(type="BN"))
    >>> settings = dict(backbone=backbone, decode_head=dict(type="HRDAHead", **head), test_cfg=dict(mode="whole"))
    >>> network = MODELS.build(dict(type="HRDAEncoderDecoder", hr_crop_size=(64, 64), **settings)).eval()
    >>> with torch.no_grad():
    ...     network.encode_decode(torch.zeros(1, 3, 128, 128), [dict(img_shape=(128, 128))]).shape
    torch.Size([1, 19, 128, 128])
    """

    rng: Draws

    def __init__(
        self,
        decode_head: dict[str, Any],
        scales: Sequence[float] = (1, 0.5),
        hr_crop_size: Sequence[int] | None = (512, 512),
        hr_slide_inference: bool = True,
        hr_slide_overlapping: bool = True,
        feature_scale: float = 0.5,
        crop_coord_divisible: int = 8,
        crops_per_pass: int = 4,
        **kwargs: Any,
    ) -> None:
        self.scales = tuple(sorted(float(scale) for scale in scales))
        if len(self.scales) not in (1, 2) or self.scales[0] <= 0 or (len(self.scales) == 2 and self.scales[1] != 1):
            raise ValueError(f"HRDAEncoderDecoder: scales must be one, or a context scale and 1, got {tuple(scales)}")
        if feature_scale not in self.scales:
            raise ValueError(f"HRDAEncoderDecoder: feature_scale must be one of {self.scales}, got {feature_scale}")
        if crop_coord_divisible < 1:
            raise ValueError(f"HRDAEncoderDecoder: crop_coord_divisible must be positive, got {crop_coord_divisible}")
        if crops_per_pass < 1:
            raise ValueError(f"HRDAEncoderDecoder: crops_per_pass must be positive, got {crops_per_pass}")
        super().__init__(decode_head={**decode_head, "two_scales": len(self.scales) == 2}, **kwargs)
        if not isinstance(self.decode_head, HRDAHead):
            got = type(self.decode_head).__name__
            raise TypeError(f"HRDAEncoderDecoder: decode_head must be an HRDAHead, got {got}")
        self.hr_crop_size = None if hr_crop_size is None else (int(hr_crop_size[0]), int(hr_crop_size[1]))
        self.hr_slide_inference = hr_slide_inference
        self.hr_slide_overlapping = hr_slide_overlapping
        self.feature_scale = float(feature_scale)
        self.crop_coord_divisible = crop_coord_divisible
        self.crops_per_pass = crops_per_pass
        self.rng = TorchDraws()

    # --- features -----------------------------------------------------------------------------------------------

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Maps for the head of the whole image at ``feature_scale``."""
        return self._encode(inputs, self.feature_scale).head

    def backbone_features(self, image_bchw: Tensor) -> list[Tensor]:
        """Encoder maps of the whole image at ``feature_scale``."""
        return self._encode(image_bchw, self.feature_scale).backbone

    def _encode(self, image_bchw: Tensor, scale: float) -> Maps:
        if scale != 1:
            size = [max(int(length * scale), 1) for length in image_bchw.shape[2:]]
            image_bchw = resize(image_bchw, size, mode="bilinear", align_corners=self.align_corners)
        return encode(self, image_bchw)

    def _crop_scales(self, image_bchw: Tensor) -> tuple[Maps, Maps | None, ScaleFeatures]:
        """Both scales for training (context, detail, head input): the detail is one crop, the same for the batch."""
        size = (image_bchw.shape[2], image_bchw.shape[3])
        context = self._encode(image_bchw, self.scales[0])
        if len(self.scales) == 1:
            return context, None, ScaleFeatures(context.head, size)
        if self.hr_crop_size is None:
            detail = self._encode(image_bchw, 1)
            return context, detail, ScaleFeatures(context.head, size, detail.head)
        box = random_box(size, self.hr_crop_size, self.crop_coord_divisible, self.rng)
        detail = self._encode(crop(image_bchw, box), 1)
        return context, detail, ScaleFeatures(context.head, size, detail.head, [box], masked=True)

    def _slide_features(self, image_bchw: Tensor) -> ScaleFeatures:
        """Both scales for prediction: the detail covers the image."""
        size = (image_bchw.shape[2], image_bchw.shape[3])
        context = self._encode(image_bchw, self.scales[0]).head
        if len(self.scales) == 1:
            return ScaleFeatures(context, size)
        if self.hr_crop_size is None or not self.hr_slide_inference:
            return ScaleFeatures(context, size, self._encode(image_bchw, 1).head)
        divide = 2 if self.hr_slide_overlapping else 1
        boxes = windows(size, self.hr_crop_size, [max(length // divide, 1) for length in self.hr_crop_size])
        crops = [crop(image_bchw, box) for box in boxes]
        # Batch norm's statistics must be those of all of them together; an exported graph holds the network once.
        if uses_batch_statistics(self) or torch.compiler.is_exporting():
            return ScaleFeatures(context, size, self._encode(torch.cat(crops), 1).head, boxes)
        return ScaleFeatures(context, size, None, boxes, parts=self._in_passes(crops))

    def _in_passes(self, crops: list[Tensor]) -> Iterator[list[Tensor]]:
        """Maps of the detail crops, so many at a time that no more than ``crops_per_pass`` images are encoded."""
        step = max(self.crops_per_pass // max(crops[0].shape[0], 1), 1)
        for first in range(0, len(crops), step):
            yield self._encode(torch.cat(crops[first : first + step]), 1).head

    # --- training -----------------------------------------------------------------------------------------------

    def segmentor_outputs(self, image_bchw: Tensor) -> Outputs:
        """The heads are the fused map and the detail crop's; see :mod:`pipa.mmseg.models.segmentors.step_adapter`."""
        context, detail, scales = self._crop_scales(image_bchw)
        logits: ScaleLogits = self.decode_head.predict_scales(scales)
        box = scales.boxes[0] if scales.boxes else None
        parts = self._supervised(logits, box)
        plain = is_plain(self.decode_head)
        weight = plain_weight(self.decode_head) if plain else main_weight(self.decode_head)
        heads = [Head(self._aligned(part, region, scales.size), region, weight * f) for _, part, region, f in parts]
        maps, crop_maps = self._maps(image_bchw, context, detail, box)
        if plain:
            return Outputs(heads, maps, crop_maps)
        return OwnOutputs(heads, maps, crop_maps, own_loss=partial(self._own_loss, parts))

    def _maps(
        self, image_bchw: Tensor, context: Maps, detail: Maps | None, box: Region | None
    ) -> tuple[list[Tensor], tuple[list[Tensor], Region] | None]:
        """Encoder maps of the image and of the detail crop, where there is one."""
        if detail is None:
            return context.backbone, None
        if box is None:
            return detail.backbone if self.feature_scale == 1 else context.backbone, None
        # The maps of one image are the same in every term: at full scale they are not those of the crop.
        maps = self.backbone_features(image_bchw) if self.feature_scale == 1 else context.backbone
        return maps, (detail.backbone, box)

    def _supervised(self, logits: ScaleLogits, box: Region | None) -> list[tuple[str, Tensor, Region | None, float]]:
        """(name, logits, region, factor), factors 1 - l and l with l = hr_loss_weight (HRDA, equation 10)."""
        detail_weight = self.decode_head.hr_loss_weight
        if logits.detail is None or detail_weight == 0:
            return [("decode", logits.fused, None, 1.0)]
        return [
            ("decode", logits.fused, None, 1 - detail_weight),
            ("decode.hr", logits.detail, box, detail_weight),
        ]

    def _aligned(self, logits: Tensor, region: Region | None, size: tuple[int, int]) -> Tensor:
        if not self.align_corners:
            return logits
        top, left, bottom, right = region or (0, 0, *size)
        return resize(logits, (bottom - top, right - left), mode="bilinear", align_corners=True)

    def _own_loss(self, parts: Sequence[tuple[str, Tensor, Region | None, float]], label_bhw: Tensor) -> Tensor:
        total = label_bhw.new_zeros((), dtype=torch.float32)
        for name, logits, region, factor in parts:
            for _, value in head_losses(name, self.decode_head, logits, crop(label_bhw, region)):
                total = total + factor * value.mean()
        return total

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """Supervised losses in mmsegmentation's form: ``decode.loss_seg`` and ``decode.hr.loss_seg``."""
        head = self.decode_head
        _, _, scales = self._crop_scales(inputs)
        logits = head.predict_scales(scales)
        label_bhw = torch.stack([sample.gt_sem_seg.data for sample in data_samples]).squeeze(1)
        losses: dict[str, Tensor] = {}
        box = scales.boxes[0] if scales.boxes else None
        for name, part, region, factor in self._supervised(logits, box):
            label = crop(label_bhw, region)
            values = [value.mean() for _, value in head_losses(name, head, part, label)]
            losses[f"{name}.loss_seg"] = torch.stack(values).sum() * factor
            full = resize(part, label.shape[1:], mode="bilinear", align_corners=self.align_corners)
            losses[f"{name}.acc_seg"] = accuracy(full, label, ignore_index=head.ignore_index)
        return losses

    # --- prediction ---------------------------------------------------------------------------------------------

    def full_logits(self, image_bchw: Tensor) -> Tensor:
        """Fused logits ``(B, C, H, W)`` of the whole image, sliding over the detail."""
        fused = self.decode_head(self._slide_features(image_bchw))
        return resize(fused, image_bchw.shape[2:], mode="bilinear", align_corners=self.align_corners)

    def encode_decode(self, inputs: Tensor, batch_img_metas: Any) -> Tensor:
        """As :meth:`full_logits`; the metas are not needed."""
        return self.full_logits(inputs)

    def slide_inference(self, inputs: Tensor, batch_img_metas: Any) -> Tensor:
        """Windows of ``test_cfg.crop_size``; with ``test_cfg.batched_slide`` several in one pass."""
        cfg = self.test_cfg
        window = Window(tuple(cfg.crop_size), tuple(cfg.stride), self.slide_batch)
        return slide(inputs, window, self.full_logits)

    @property
    def slide_batch(self) -> int:
        """Windows in one pass."""
        return 4 if self.test_cfg.get("batched_slide", False) else 1

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        return self.decode_head(self._slide_features(inputs))
