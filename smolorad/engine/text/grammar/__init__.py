"""Grammars that constrain generation: JSON schemas and regular expressions."""
