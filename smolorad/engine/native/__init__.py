"""The C library and its ctypes: decoding and training on the CPU. torch computes the same where it cannot be used."""
