"""Encoders that return a list of feature maps."""
