"""Benchmarks: `python -m benchmarks.NAME [--quick]` reports its progress on stderr and prints one JSON line on stdout.

Peers are measured in the same run, in processes of their own, in turn with the project: this machine's mood meets all alike.
"""
