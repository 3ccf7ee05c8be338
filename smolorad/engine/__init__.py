"""The engine: the one child process that imports torch and keeps the loaded model in memory."""
