"""No adaptation: ordinary supervised training on the source. The target's images are not opened."""

custom_hooks = []
