"""Segmentors, and what the training step sees of one."""
