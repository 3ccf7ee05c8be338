"""smolorad: one local daemon that owns a small language model for its user."""

__version__ = "0.1.0"
