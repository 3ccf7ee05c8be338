"""The user's text, made ready for training: plain functions over rows, in a process of their own.

Only `readers/saved.py` and `readers/hub.py` import `datasets`, only `tokens.py` and `words.py` `tokenizers`, only `tokens.py`
`msgspec`, only `template.py` `jinja2`, only `near.py` `rensa`; Arrow data is written and read with `pyarrow` alone. The rest
needs nothing but the standard library. What reads, cuts and compares the lines of text files is `smolora._text`, which the
client has too.
"""
