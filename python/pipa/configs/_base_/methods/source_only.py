"""No adaptation: ordinary supervised training on the source. The target's images are not opened."""
# title: source labels only

custom_hooks = []
