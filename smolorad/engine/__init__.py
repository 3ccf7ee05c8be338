"""The engine: the one child process that imports torch and holds the resident model."""
