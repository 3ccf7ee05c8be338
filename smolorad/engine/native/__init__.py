"""Decoding in one call a token, in C, for models like Llama on the CPU; torch's own path stands beside it as its equal."""
