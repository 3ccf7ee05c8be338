"""The Python client of smolorad."""
