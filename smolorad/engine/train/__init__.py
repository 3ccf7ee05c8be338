"""A training, from rows to an adapter folder."""
