"""A small text-to-image model of SDXL's kind, trained from scratch on the drawn world.

It has KOALA-700M's structure at reduced width: no attention at the top level, two levels with it,
no middle block, pooled text and size conditioning. `recipe` holds what trained it.
"""
