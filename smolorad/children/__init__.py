"""The processes that the daemon spawns, and how it talks to them."""
