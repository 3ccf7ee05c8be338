"""What leaves this machine names models by names, and no path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smolorad.portable import STARTER_ID, Source, adapter_config, is_path, remove_paths, source_of
from smolorad.publish import publish

SNAPSHOT = "models--org--tiny/snapshots/0123abc"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/tiny", Source("org/tiny")),
        ("merged.model", Source("merged.model")),
        ("starter", Source(STARTER_ID)),
        (STARTER_ID, Source(STARTER_ID)),
        ("/home/ann/tiny", Source("tiny")),
        ("/home/ann/tiny/", Source("tiny")),
        ("/home/ann/tiny/.", Source("tiny")),
        ("/", Source("model")),
        ("C:\\Users\\ann\\tiny", Source("tiny")),
        (f"/home/ann/hub/{SNAPSHOT}", Source("org/tiny", "0123abc")),
        (f"/home/ann/hub/{SNAPSHOT}/", Source("org/tiny", "0123abc")),
        ("/home/ann/hub/models--gpt2/snapshots/0123abc", Source("gpt2", "0123abc")),
    ],
)
def test_a_base_is_known_by_its_name(name: str, expected: Source) -> None:
    assert source_of(name) == expected


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"origin": "hub", "source": "org/tiny@0123abc"}, Source("org/tiny", "0123abc")),
        ({"origin": "hub", "source": "org/tiny"}, Source("org/tiny")),
        ({"origin": "starter", "source": "a-wheel==1: a.gguf"}, Source(STARTER_ID)),
        ({"source": "a-wheel==1: a.gguf", "gguf_sha256": "0", "recipe": 1}, Source(STARTER_ID)),
        ({"origin": "folder", "source": f"/home/ann/{SNAPSHOT}"}, Source("org/tiny", "0123abc")),
        ({"origin": "folder", "source": "/home/ann/tiny"}, Source("mine")),
        ({"origin": "merge", "source": "keeper@1"}, Source("mine")),
    ],
)
def test_a_model_of_this_home_is_known_by_its_origin(about: dict[str, Any], expected: Source, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    publish(tmp_path / "stage", tmp_path / "models" / "mine", about)
    assert source_of("mine", tmp_path / "models" / "mine") == expected


def test_a_folder_of_the_hubs_cache_is_known_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / SNAPSHOT)
    for folder in (tmp_path / SNAPSHOT, tmp_path / "link"):
        assert source_of(str(folder), folder) == Source("org/tiny", "0123abc")


@pytest.mark.parametrize("place", ["/a/b", "~/a", "./a", "../a", "a\\b", "C:/a", "a/b/c", "file:///a"])
def test_a_place_becomes_the_name_of_the_base(place: str) -> None:
    assert is_path(place)
    changed = adapter_config({"r": 4, "base_model_name_or_path": place}, Source("org/tiny", "0123abc"))
    assert changed == {"r": 4, "base_model_name_or_path": "org/tiny", "revision": "0123abc"}


@pytest.mark.parametrize("name", ["gpt2", "org/tiny", None, 7])
def test_what_is_no_place_stays(name: Any) -> None:
    raw = {"base_model_name_or_path": name, "revision": "main"}
    assert adapter_config(raw, Source("other")) == raw


def test_configs_lose_the_places_that_libraries_note(tmp_path: Path) -> None:
    noted = {
        "_name_or_path": "/home/ann/a",
        "name_or_path": "../b",
        "special_tokens_map_file": "C:\\ann\\c.json",
        "nested": [{"tokenizer_file": "/home/ann/d", "kept": "/"}],
        "vocab_file": "vocab.json",
        "unk_token": "/",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(noted))
    untouched = '{"vocab_file":  "vocab.json"}'
    (tmp_path / "config.json").write_text(untouched)
    (tmp_path / "generation_config.json").write_text("{")
    remove_paths(tmp_path)
    kept = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert kept == {"nested": [{"kept": "/"}], "vocab_file": "vocab.json", "unk_token": "/"}
    assert (tmp_path / "config.json").read_text() == untouched
    assert (tmp_path / "generation_config.json").read_text() == "{"
