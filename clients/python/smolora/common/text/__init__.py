"""From files to texts: readers, chunking, duplicates. The daemon's worker and `smolora.datasets` both use it.

Plain functions over rows; nothing but the standard library. What is wrong with a row is a `RowProblem` in its place, what is
wrong with a file raises `BadFile`.
"""
