"""Scaled Q-learning: offline C51 + CQL over many Atari games with one multi-headed network."""

__version__ = "0.1.0"
