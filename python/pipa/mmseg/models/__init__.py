"""Networks: backbones, decode heads, segmentors."""
