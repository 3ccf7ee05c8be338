"""The engine loop, the scheduler, what is loaded, and output."""
