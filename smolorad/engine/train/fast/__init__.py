"""Training a causal language model on what an optimiser step needs, and no more: no padding, no unscored logits, no mask.

`trainer.FastTrainer` is TRL's SFTTrainer with its batches, its loss and some modules' arithmetic replaced; each part stands in
a file of its own, and computes what the part that it replaces computes, up to rounding.

`kernels` is our own library's part of the arithmetic, where a compiler and a processor that multiplies bf16 are; every other
module computes the same by torch without it.
"""
