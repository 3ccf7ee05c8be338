"""Stand-in while the real one is written."""

import shutil
from pathlib import Path


def write_tokenizer(values, folder, *, name, context_length):
    for f in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        p = Path(name).parent / f
        if p.exists():
            shutil.copy(p, folder / f)


def end_ids(values):
    return [values["tokenizer.ggml.eos_token_id"]]
