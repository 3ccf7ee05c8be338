"""The engine: the child process that keeps the loaded model in memory, generates and trains.

`worker/` is for other child processes, which fetch and merge. No package but this one imports torch.
"""
