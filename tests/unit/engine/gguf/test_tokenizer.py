"""The tokenizer of a GGUF file is the one that transformers has for the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.engine.gguf.pre_tokenizers import CUTS
from smolorad.engine.gguf.tokenizer import end_ids, write_tokenizer
from smolorad.errors import Damaged, UnsupportedModel
from tests.unit.engine.gguf.vocabularies import BYTE_LEVEL, metadata_of, prefixed, read_back, sentencepiece, texts

KINDS = (*BYTE_LEVEL, "llama", "gemma", "phi3")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>", "<s>", "</s>", "<bos>", "<turn>", "<|end|>", "zebra", "[PAD500]")


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The model's own tokenizer, and that of its GGUF."""
    kind: str = request.param
    if kind in BYTE_LEVEL:
        original = BYTE_LEVEL[kind]()
        original.chat_template = TEMPLATE
        metadata = metadata_of(original, pre=kind)
    else:
        original, metadata = sentencepiece(kind)
        original.chat_template = metadata["tokenizer.chat_template"] = TEMPLATE
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(metadata, folder, name="x.gguf", context_length=77)
    return original, read_back(folder)


def test_ids_of_200_texts(both: tuple[Any, Any]) -> None:
    original, ours = both
    asked = texts(SPECIAL)
    assert len(asked) == 200
    for text in asked:
        ids = original(text).input_ids
        assert ours(text).input_ids == ids, text
        assert ours.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False), text
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == original.decode(ids, skip_special_tokens=skip), text


@given(text=st.text(max_size=40) | st.text("the <|im_end|>\n\t '12sS▁</s>", max_size=40))
def test_ids_of_any_text(both: tuple[Any, Any], text: str) -> None:
    original, ours = both
    assert ours(text).input_ids == original(text).input_ids


def test_ids_of_50_conversations(both: tuple[Any, Any]) -> None:
    """The token of the beginning, which the template writes, is not doubled, or is, as with the model's own tokenizer."""
    original, ours = both
    if original.bos_token is not None and ours.bos_token is None:
        original.bos_token = None  # Qwen has none
    said = texts(SPECIAL)
    for index in range(50):
        talk = [{"role": "user", "content": said[2 * index]}, {"role": "assistant", "content": said[2 * index + 1]}]
        for more in ({}, {"tokenize": False}):
            asked = {"add_generation_prompt": bool(index % 2), **more}
            assert ours.apply_chat_template(talk, **asked) == original.apply_chat_template(talk, **asked)


def test_settings(both: tuple[Any, Any]) -> None:
    original, ours = both
    assert ours.model_max_length == 77
    assert ours.clean_up_tokenization_spaces is False
    assert (ours.eos_token, len(ours)) == (original.eos_token, len(original))


@pytest.mark.model
def test_the_starters(starter_model: Path, tmp_path: Path) -> None:
    described = json.loads((starter_model / "tokenizer.json").read_text())
    tokens = sorted(described["model"]["vocab"], key=described["model"]["vocab"].__getitem__)
    added = {one["id"] for one in described["added_tokens"]}
    found = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3 if index in added else 1 for index in range(len(tokens))],
        "merges": [" ".join(pair) for pair in described["model"]["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "padding_token_id": 2,
        "add_bos_token": False,
        "add_space_prefix": False,
    }
    metadata = prefixed(found, (starter_model / "chat_template.jinja").read_text())
    write_tokenizer(metadata, tmp_path, name="x.gguf", context_length=8192)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (starter_model / path.name).read_bytes(), path.name
    assert end_ids(metadata) == [2, 0]


SMALL = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab", "<e>"], "token_type": [1, 1, 1, 3], "merges": ["a b"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "no tokenizer"),
        ({"model": 3}, "a int as `tokenizer.ggml.model`"),
        ({"tokens": None}, "no tokens"),
        ({"tokens": []}, "no tokens"),
        ({"tokens": ["a", 1, "ab", "<e>"]}, "something else than a list of str"),
        ({"tokens": "abcd"}, "something else than a list of str"),
        ({"tokens": ["a", "b", "ab", "a"]}, "the token 'a' twice, as 0 and 3"),
        ({"tokens": ["a", "b", "ab", "\ud800"]}, "no valid text"),
        ({"tokens": ["a", "b", "ab", "x" * 5000]}, "a token of 5,000 characters"),
        ({"token_type": [1, 1]}, "4 tokens and 2 values in `tokenizer.ggml.token_type`"),
        ({"token_type": [1, 1, 1, True]}, "something else than a list of int"),
        ({"scores": [0.0]}, "4 tokens and 1 values in `tokenizer.ggml.scores`"),
        ({"scores": [0.0, 0.0, 0.0, float("nan")]}, "no number"),
        ({"merges": None}, "no merges"),
        ({"merges": ["a c"]}, "joins 'a c'"),
        ({"merges": ["ab"]}, "joins 'ab'"),
        ({"merges": ["b a"]}, "joins 'b a'"),
        ({"merges": [1]}, "something else than a list of str"),
        ({"eos_token_id": 4}, "has 4 as `tokenizer.ggml.eos_token_id`"),
        ({"eot_token_id": -1}, "has -1 as `tokenizer.ggml.eot_token_id`"),
        ({"bos_token_id": "a"}, "a str as `tokenizer.ggml.bos_token_id`"),
        ({"add_bos_token": 1}, "a int as `tokenizer.ggml.add_bos_token`"),
    ],
)
def test_damaged(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Damaged, match=message) as raised:
        write_tokenizer(prefixed({**SMALL, **change}), tmp_path, name="x.gguf", context_length=1)
    assert str(raised.value).startswith("x.gguf ")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("template", [3, ["a"], "a\ud800"])
def test_a_template_that_is_no_text(tmp_path: Path, template: Any) -> None:
    with pytest.raises(Damaged, match=r"tokenizer\.chat_template"):
        write_tokenizer({**prefixed(SMALL), "tokenizer.chat_template": template}, tmp_path, name="x", context_length=1)


@pytest.mark.parametrize("name", ["tool_use", "../../outside", "/etc/x"])
def test_templates_of_other_callers_are_left(tmp_path: Path, name: str) -> None:
    metadata = {**prefixed(SMALL, "main"), f"tokenizer.chat_template.{name}": "other"}
    write_tokenizer(metadata, tmp_path / "made", name="x", context_length=1)
    assert (tmp_path / "made" / "chat_template.jinja").read_text() == "main"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert len([*(tmp_path / "made").iterdir()]) == 3


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "plamo2", "none", "wordpiece\n"])
def test_other_kinds(tmp_path: Path, model: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"the kind .*load the model that it was made from\.$"):
        write_tokenizer(prefixed({**SMALL, "model": model}), tmp_path, name="x.gguf", context_length=1)


@pytest.mark.parametrize("pre", ["", "default", "kimi-k2", "gpt-5000"])
def test_other_cuts(tmp_path: Path, pre: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.ggml\.pre"):
        write_tokenizer(prefixed({**SMALL, "pre": pre}), tmp_path, name="x.gguf", context_length=1)


def test_an_old_file_of_an_architecture_with_one_cut(tmp_path: Path) -> None:
    write_tokenizer(prefixed({**SMALL, "pre": "default"}, architecture="gpt2"), tmp_path, name="x", context_length=1)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["pre_tokenizer"]["type"] == "ByteLevel"


@pytest.mark.parametrize("pre", CUTS)
def test_every_cut_makes_a_tokenizer(tmp_path: Path, pre: str) -> None:
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    found = {"model": "gpt2", "pre": pre, "tokens": [*letters, "ab"], "merges": ["a b"]}
    write_tokenizer(prefixed(found), tmp_path, name="x", context_length=1)
    text = "abc 123456 it's\r\n\n\tx　中文 ABc?!"
    ours = read_back(tmp_path)
    assert ours.decode(ours(text).input_ids) == text


def test_a_removed_space_is_refused(tmp_path: Path) -> None:
    _, metadata = sentencepiece("llama")
    with pytest.raises(UnsupportedModel, match="removes spaces"):
        write_tokenizer({**metadata, "tokenizer.ggml.remove_extra_whitespaces": True}, tmp_path, name="x", context_length=1)


def test_a_vocabulary_whose_tokens_all_make_each_other(tmp_path: Path) -> None:
    tokens = ["a" * i + "b" * j for i in range(40) for j in range(40) if i + j]
    with pytest.raises(Damaged, match="too many of them make others"):
        write_tokenizer(prefixed({"model": "llama", "tokens": tokens}), tmp_path, name="x", context_length=1)


def test_what_ends_an_answer() -> None:
    def ends(tokens: list[str], types: list[int], **more: int) -> list[int]:
        return end_ids(prefixed({"model": "gpt2", "tokens": tokens, "token_type": types, **more}))

    llama_3 = ["a", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>"]
    assert ends(llama_3, [1, 3, 3, 3, 1], eos_token_id=3) == [3, 1, 2]
    assert ends(["<pad>", "<eos>", "</s>", "<end_of_turn>"], [3, 3, 4, 3], eos_token_id=1) == [1, 3]
    glm = ["a", "<|endoftext|>", "<|user|>", "<|observation|>"]
    assert ends(glm, [1, 3, 3, 3], eos_token_id=1, eot_token_id=2, eom_token_id=3) == [1, 2, 3]
    assert ends(["a"], [1]) == []
    assert end_ids(prefixed({"model": "llama", "tokens": ["<unk>", "<s>", "</s>"], "token_type": [2, 3, 3]})) == [2]


def test_glm_begins_with_two_tokens(tmp_path: Path) -> None:
    found = {**SMALL, "pre": "glm4", "tokens": ["a", "b", "ab", "[gMASK]", "<sop>"], "token_type": [1, 1, 1, 3, 3]}
    write_tokenizer(prefixed({**found, "bos_token_id": 3, "add_bos_token": True}), tmp_path, name="x", context_length=1)
    assert read_back(tmp_path)("ab").input_ids == [3, 4, 2]


def test_qwens_tokens_that_are_text(tmp_path: Path) -> None:
    found = {**SMALL, "pre": "qwen2", "tokens": ["a", "b", "ab", "<|fim_pad|>", "<|im_end|>"], "token_type": [1, 1, 1, 3, 3]}
    write_tokenizer(prefixed({**found, "bos_token_id": 4, "eos_token_id": 4}), tmp_path, name="x", context_length=1)
    ours = read_back(tmp_path)
    assert (ours.bos_token, ours.eos_token) == (None, "<|im_end|>")
    assert ours.decode([0, 3, 4], skip_special_tokens=True) == "a<|fim_pad|>"


def test_mistrals_first_vocabulary_puts_a_space_behind_special_tokens_too(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁▁", "▁▁▁▁", "▁a", "▁", "a"]
    found = {"model": "llama", "tokens": tokens, "token_type": [2, 3, 3, *[6] * 256, *[1] * 5]}
    scores = [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0]
    write_tokenizer(prefixed({**found, "scores": scores}), tmp_path, name="x", context_length=1)
    assert read_back(tmp_path)("a<s>a").input_ids == [1, 261, 1, 261]


@pytest.mark.parametrize(
    "source", ["{% for x in range(10**9) %}{{ x }}{% endfor %}", "{{ ().__class__.__base__ }}", "{% if %}"]
)
def test_a_templates_text_is_kept_for_the_gate_that_all_templates_pass(tmp_path: Path, source: str) -> None:
    from smolorad.chat.template import ChatTemplate, TemplateRefuses
    from smolorad.chat.turns import Turn

    write_tokenizer(prefixed(SMALL, source), tmp_path, name="x", context_length=1)
    kept = (tmp_path / "chat_template.jinja").read_text()
    assert kept == source
    with pytest.raises((TemplateRefuses, UnsupportedModel)):
        ChatTemplate(kept, {}).render((Turn("user", "a"),), open_for_answer=True)


@pytest.mark.parametrize(
    ("pre", "token", "stripped"),
    [
        ("dbrx", "<|im_sep|>", "a|a"),
        ("gpt-4o", "<|user|>", "a |a"),
        ("gpt-4o", "<|endoftext|>", "a | a"),
        ("dbrx", "<|x|>", "a | a"),
    ],
)
def test_tokens_of_phi_4_swallow_spaces(tmp_path: Path, pre: str, token: str, stripped: str) -> None:
    found = {**SMALL, "pre": pre, "tokens": ["a", "b", "ab", "Ġ", token], "token_type": [1, 1, 1, 1, 3]}
    write_tokenizer(prefixed(found, architecture="phi3"), tmp_path, name="x", context_length=1)
    ours = read_back(tmp_path)
    assert ours.decode(ours(f"a {token} a").input_ids) == stripped.replace("|", token)


def test_gemmas_tokens_that_are_text(tmp_path: Path) -> None:
    _, metadata = sentencepiece("gemma")
    write_tokenizer(metadata, tmp_path, name="x", context_length=1)
    added = {str(token): token.special for token in read_back(tmp_path).added_tokens_decoder.values()}
    assert added == {**added, "<unused0>": False, "<turn>": True, "<bos>": True, "▁▁": False}


def test_a_tab_takes_the_place_of_its_byte_where_gemma_has_none(tmp_path: Path) -> None:
    _, metadata = sentencepiece("gemma")
    tokens = ["other" if token == "\t" else token for token in metadata["tokenizer.ggml.tokens"]]
    write_tokenizer({**metadata, "tokenizer.ggml.tokens": tokens}, tmp_path, name="x", context_length=1)
    vocab = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert vocab["\t"] == tokens.index("<0x09>")
    assert "<0x09>" not in vocab


def test_padding_in_the_midst_is_no_added_token(tmp_path: Path) -> None:
    found = {**SMALL, "tokens": ["a", "b", "ab", "[PAD3]", "<e>", "[PAD5]"], "token_type": [1, 1, 1, 4, 3, 4]}
    write_tokenizer(prefixed(found), tmp_path, name="x", context_length=1)
    ours = read_back(tmp_path)
    assert [*ours.added_tokens_decoder] == [4]
    assert len(ours) == 5
    assert ours("a<e>[PAD3]").input_ids == [0, 4]
