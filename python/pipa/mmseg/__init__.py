"""Networks, data sets and the training hook for mmsegmentation; importing this module registers them.

Needs the extra ``pipa-rs[mmseg]``. In a config: ``custom_imports = dict(imports=["pipa.mmseg"])``.
"""

# ruff: noqa: E402
from pipa.doctor import require_packages

require_packages()

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    import mmseg.datasets  # noqa: F401  (prints a debug remark while no logger is set up yet)

from mmengine.config.utils import MODULE2PACKAGE

from pipa.mmseg import safe_load
from pipa.mmseg.checkpoint_hook import SafeCheckpointHook
from pipa.mmseg.daformer_head import DAFormerHead
from pipa.mmseg.datasets import (
    SYNTHIA_13,
    SYNTHIA_16,
    ACDCDataset,
    CityscapesDomainDataset,
    DarkZurichDomainDataset,
    GTADataset,
    SynthiaDataset,
)
from pipa.mmseg.deeplab_v2_head import DeepLabV2Head
from pipa.mmseg.draws import DrawSampler, SeededDataset
from pipa.mmseg.efficientnet_lite import EfficientNetLite
from pipa.mmseg.folder import FolderDataset
from pipa.mmseg.hook import PipaHook
from pipa.mmseg.hrda_head import HRDAHead
from pipa.mmseg.hrda_segmentor import HRDAEncoderDecoder
from pipa.mmseg.metrics import DomainIoUMetric
from pipa.mmseg.mit import MiT
from pipa.mmseg.precision import AutocastOptimWrapper
from pipa.mmseg.rcs import RareClassSampling
from pipa.mmseg.timm_backbone import TimmEncoder
from pipa.mmseg.transforms import LoadImage, LoadLabel, PackUnlabelled, PseudoMargins, SyncCrop
from pipa.mmseg.vit import ViTPyramid

safe_load.install()
# mmengine finds `mmseg::` bases by the name of the distribution; by upstream's, its hub would run pip to install that.
MODULE2PACKAGE["mmseg"] = "onedl-mmsegmentation"

__all__ = [
    "SYNTHIA_13",
    "SYNTHIA_16",
    "ACDCDataset",
    "AutocastOptimWrapper",
    "CityscapesDomainDataset",
    "DAFormerHead",
    "DarkZurichDomainDataset",
    "DeepLabV2Head",
    "DomainIoUMetric",
    "DrawSampler",
    "EfficientNetLite",
    "FolderDataset",
    "GTADataset",
    "HRDAEncoderDecoder",
    "HRDAHead",
    "LoadImage",
    "LoadLabel",
    "MiT",
    "PackUnlabelled",
    "PipaHook",
    "PseudoMargins",
    "RareClassSampling",
    "SafeCheckpointHook",
    "SeededDataset",
    "SyncCrop",
    "SynthiaDataset",
    "TimmEncoder",
    "ViTPyramid",
]
