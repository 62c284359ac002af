"""Files as people have them: images, labels, class tables, conversion; safe reading and writing.

Imports nothing above it.
"""
