"""Networks, data sets and the training hook for mmsegmentation; importing this module registers them.

Needs the extra ``pipa-rs[mmseg]``. In a config: ``custom_imports = dict(imports=["pipa.mmseg"])``.
"""

# ruff: noqa: E402
from pipa.environment import require_packages

require_packages()

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    import mmseg.datasets  # noqa: F401  (prints a debug remark while no logger is set up yet)

from mmengine.config.utils import MODULE2PACKAGE

from pipa.mmseg.checkpoints import safe_load
from pipa.mmseg.datasets.domains import (
    SYNTHIA_13,
    SYNTHIA_16,
    ACDCDataset,
    CityscapesDomainDataset,
    DarkZurichDomainDataset,
    GTADataset,
    SynthiaDataset,
)
from pipa.mmseg.datasets.folder import FolderDataset
from pipa.mmseg.datasets.rare_class_sampling import RareClassSampling
from pipa.mmseg.datasets.samplers import DrawSampler, SeededDataset
from pipa.mmseg.datasets.soft_labels import LoadSoftLabel
from pipa.mmseg.datasets.transforms import LoadImage, LoadLabel, PackUnlabelled, PseudoMargins, SyncCrop
from pipa.mmseg.engine.checkpoint_hook import SafeCheckpointHook
from pipa.mmseg.engine.layer_decay import LayerDecayConstructor
from pipa.mmseg.engine.optim_wrapper import AutocastOptimWrapper
from pipa.mmseg.engine.pipa_hook import PipaHook
from pipa.mmseg.engine.repeatable import RepeatableHook
from pipa.mmseg.evaluation.metrics import DomainIoUMetric
from pipa.mmseg.evaluation.pseudo_labels import PseudoLabelMetric
from pipa.mmseg.models.backbones.efficientnet_lite import EfficientNetLite
from pipa.mmseg.models.backbones.mit import MiT
from pipa.mmseg.models.backbones.timm_encoder import TimmEncoder
from pipa.mmseg.models.backbones.vit import ViTPyramid
from pipa.mmseg.models.decode_heads.daformer import DAFormerHead
from pipa.mmseg.models.decode_heads.deeplab_v2 import DeepLabV2Head
from pipa.mmseg.models.decode_heads.hrda import HRDAHead
from pipa.mmseg.models.segmentors.hrda import HRDAEncoderDecoder

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
    "LayerDecayConstructor",
    "LoadImage",
    "LoadLabel",
    "LoadSoftLabel",
    "MiT",
    "PackUnlabelled",
    "PipaHook",
    "PseudoLabelMetric",
    "PseudoMargins",
    "RareClassSampling",
    "RepeatableHook",
    "SafeCheckpointHook",
    "SeededDataset",
    "SyncCrop",
    "SynthiaDataset",
    "TimmEncoder",
    "ViTPyramid",
]
