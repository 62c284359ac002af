"""Data sets of the domain pairs, samplers, transforms, rare class sampling."""
