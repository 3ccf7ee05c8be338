"""Pieces of text: joined they equal the tokenizer's own decoding, and none is taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from smolorad.engine.text.detokenizer import Detokenizer
from tests.examples import examples
from tests.tiny import CORPUS, tiny_tokenizer


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's: spaces are part of the words, what is not in the vocabulary is spelled in bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "▁the", "▁model", "s", "e", "é", "▁日", "本", "▁▁", ".", "\N{REPLACEMENT CHARACTER}"]
    bpe = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


TOKENIZERS = {"byte level": tiny_tokenizer(), "byte fallback": byte_fallback_tokenizer()}


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    text = Detokenizer(tokenizer)
    return [*(text.push(id) for id in ids), text.flush()]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_pieces_joined_equal_decode(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    beyond = len(tokenizer) + 2  # models have rows beyond their tokenizer's vocabulary
    ids = data.draw(st.lists(st.integers(0, beyond), max_size=40))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", [*CORPUS, "🙂👩‍👩‍👧 é 日本 ещё", "  two  spaces ", "\n\n\ttab"])
def test_real_text_comes_in_whole_characters(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(text).input_ids
    out = pieces(tokenizer, ids)
    assert "".join(out) == tokenizer.decode(ids, skip_special_tokens=True) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in out)


def test_a_bad_byte_at_the_end_of_a_run_changes_nothing_that_has_gone_out() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    ids = tokenizer.convert_tokens_to_ids(["▁the", "<0x41>", "<0x42>", "<0xFF>", "s"])
    assert tokenizer.decode(ids) == "the" + 3 * "\N{REPLACEMENT CHARACTER}" + "s"
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.model
@pytest.mark.hypothesis
def test_the_starter_model_s_vocabulary(starter_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_model)

    @settings(max_examples=examples(200), deadline=None)
    @given(ids=st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
    def joined_equals_decode(ids: list[int]) -> None:
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)

    joined_equals_decode()
