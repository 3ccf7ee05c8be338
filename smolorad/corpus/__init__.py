"""Prepares the user's text for training: plain functions over rows, in their own process.

Only `readers/saved.py` and `readers/hub.py` import `datasets`, only `tokenizer.py` and `bpe_cache.py` `tokenizers`, only
`tokenizer.py` `msgspec`, only `near_duplicates.py` `rensa`; Arrow data is written and read with `pyarrow` alone. The rest needs
nothing but the standard library. `smolora.common.text`, which the client shares, reads, cuts and compares lines of text files.
"""
