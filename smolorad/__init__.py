"""smolorad: one local daemon that owns a small language model for its user."""

__version__ = "0.2.0.dev0"
