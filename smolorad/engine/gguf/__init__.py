"""GGUF model files, read as the files that transformers has for the same model."""
