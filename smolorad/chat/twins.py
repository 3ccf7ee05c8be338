"""TRL's training versions of chat templates: `NAME_training.jinja` beside `NAME.jinja` in the installed package.

Some templates leave out parts of an answer when they show it, as a thought; TRL's version shows what is to be learned. The
files are read without importing TRL, which imports torch.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from smolorad.chat.template import ChatTemplate


def training_twin(template: ChatTemplate) -> ChatTemplate | None:
    """TRL's training version of a template, if TRL knows the template."""
    source = _twins().get(template.source)
    return None if source is None else ChatTemplate(source, template.special)


@functools.cache
def _twins() -> dict[str, str]:
    """By the source of each template the source of its training version."""
    spec = importlib.util.find_spec("trl")
    folders = [] if spec is None else spec.submodule_search_locations or []
    found: dict[str, str] = {}
    for folder in folders:
        for file in Path(folder, "chat_templates").glob("*_training.jinja"):
            original = file.with_name(file.name.replace("_training", ""))
            if original.is_file():
                found[original.read_text(encoding="utf-8")] = file.read_text(encoding="utf-8")
    return found
