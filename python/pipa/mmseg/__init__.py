"""Networks, data sets and the training hook for mmsegmentation; importing this module registers them.

Needs the extra ``pipa-rs[mmseg]``. In a config: ``custom_imports = dict(imports=["pipa.mmseg"])``.
"""

from pipa.mmseg.daformer_head import DAFormerHead
from pipa.mmseg.mit import MiT

__all__ = ["DAFormerHead", "MiT"]
