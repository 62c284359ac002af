"""The losses and kernels of PiPa as pure functions. Tensors keep device, dtype and graph.

Shape suffixes: B batch, C classes, D channels, H W size, N anchors, M keys, A groups, V views.
"""

from __future__ import annotations

__all__: list[str] = []
