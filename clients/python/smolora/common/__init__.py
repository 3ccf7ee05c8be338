"""What the client and the daemon share: readers of text files, paths, JSON files, adapter settings."""
