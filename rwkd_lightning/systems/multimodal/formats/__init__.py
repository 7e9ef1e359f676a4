"""Layouts of data sets of text and picture, each read by a module of its own; `load_pairs` chooses."""

from rwkd_lightning.systems.multimodal.formats.choose import load_pairs

__all__ = ["load_pairs"]
