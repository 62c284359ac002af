"""Toy pair, source labels only: what the adaptation starts from."""

_base_ = ["./_base_/toy.py"]
