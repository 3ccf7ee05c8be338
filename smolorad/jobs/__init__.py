"""Durable jobs: the queue, the moves, the events, and one file for each kind."""
