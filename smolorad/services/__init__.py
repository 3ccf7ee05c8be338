"""One file for each proto service: parse, call, convert."""
