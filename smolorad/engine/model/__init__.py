"""A base model: its folder, its weights, how it is loaded and run."""
