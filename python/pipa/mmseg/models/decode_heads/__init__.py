"""Decode heads: DAFormer, HRDA, DeepLab-v2."""
