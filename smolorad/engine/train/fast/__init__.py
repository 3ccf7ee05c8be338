"""The fast trainer: an optimiser step without padding, without unscored logits, without a mask.

`trainer.FastTrainer` is TRL's SFTTrainer with its batches, its loss and some modules' arithmetic replaced; each part stands in
a file of its own, and computes what the part that it replaces computes, up to rounding.

`kernels` is our own library's part of the arithmetic, where a compiler and a processor that multiplies bf16 are; every other
module computes the same by torch without it.
"""
