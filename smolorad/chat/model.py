"""What one model makes of text: its tokenizer, its chat template, and the tokens that steer it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from smolorad.chat.encode import Plain, TextEncoder, to_bytes
from smolorad.chat.rows import Frame, RowEncoder
from smolorad.chat.special import ControlTokens, frame_tokens
from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.turns import Turns

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ModelText:
    """Encodes prompts, conversations and rows for one model. Nothing is compiled before it is needed."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        special: Mapping[str, str],
        ends: Iterable[str],
        plain: Plain | None = None,
    ) -> None:
        """`template` is the chat template's source, `special` has `bos_token`, `eos_token` and the like, `ends` are the
        tokens that stop the generation. `plain` encodes texts faster than the tokenizer does.
        """
        self.tokenizer = tokenizer
        self.source = template
        self.special = special
        self.ends = tuple(dict.fromkeys(end for end in ends if end))
        self._plain = plain
        self._encoders: dict[bool, TextEncoder] = {}

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template; None where the model has none that works."""
        try:
            return ChatTemplate(self.source, self.special) if self.source else None
        except TemplateRefuses:
            return None

    @cached_property
    def control(self) -> ControlTokens:
        """The tokens that text from users must not become."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        spelled = {token.content for token in added}
        special = {token.content for token in added if token.special}
        return ControlTokens(special | frame_tokens(self.template, spelled) | spelled.intersection(self.ends), self.ends)

    @cached_property
    def frame(self) -> Frame:
        """What training puts around a text."""
        bare = self.tokenizer.encode("a", add_special_tokens=False).ids
        full = self.tokenizer.encode("a", add_special_tokens=True).ids
        begin = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
        end = self.tokenizer.token_to_id(self.special.get("eos_token", ""))
        return Frame(to_bytes(full[:begin]), b"" if end is None else to_bytes([end]), to_bytes(full[begin + len(bare) :]))

    def encoder(self, *, parse_special: bool = False) -> TextEncoder:
        """What encodes texts; with `parse_special` control tokens are found in them."""
        if parse_special not in self._encoders:
            self._encoders[parse_special] = TextEncoder(
                self.tokenizer, self.control, parse_special=parse_special, plain=self._plain
            )
        return self._encoders[parse_special]

    def rows(
        self,
        *,
        parse_special: bool = False,
        completion_only: bool = True,
        assistant_only: bool = True,
        compare: bool = False,
    ) -> RowEncoder:
        """What encodes rows, and says which of their tokens are trained; the switches are those of RowEncoder."""
        return RowEncoder(
            self.encoder(parse_special=parse_special),
            self.template,
            self.frame,
            completion_only=completion_only,
            assistant_only=assistant_only,
            compare=compare,
        )

    def prompt(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The token ids of a prompt, as the tokenizer begins and ends a text."""
        (ids,) = self.encoder(parse_special=parse_special).encode([text])
        return array("i", self.frame.head + ids + self.frame.tail).tolist()

    def conversation(self, turns: Turns, *, parse_special: bool = False) -> list[int]:
        """The token ids of a conversation, open for its answer. Raises TemplateRefuses."""
        template = ChatTemplate(self.source or "", self.special) if self.template is None else self.template
        shown = template.render(turns, open_for_answer=True)
        ((ids, _),) = self.encoder(parse_special=parse_special).encode_shown([shown])
        return ids
