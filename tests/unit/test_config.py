"""Settings: where each value comes from, and what is refused."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.config import PREFIX, Settings, read_duration
from smolorad.domain import Device, Dtype
from smolorad.errors import InvalidRequest

NO_FILE = Path("/nonexistent/smolorad.toml")


def load(*argv: str, toml: str | None = None, folder: Path | None = None, **environ: str) -> Settings:
    file = NO_FILE
    if toml is not None and folder is not None:
        file = folder / "smolorad.toml"
        file.write_text(toml)
    return Settings.load(argv, environ, file)


def test_defaults_need_no_file_and_no_variable() -> None:
    settings = load(SMOLORA_HOME="/data/smolora")
    assert settings.home == Path("/data/smolora")
    assert settings.socket == Path("/data/smolora/run/smolorad.sock")
    assert settings.default_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert settings.keep_alive == timedelta(minutes=30)
    assert (settings.max_queue, settings.max_generations, settings.drain_s, settings.stall_s) == (512, 64, 25.0, 60.0)
    assert settings.prefix_cache_disk_bytes == 0
    assert settings.preload
    assert settings.allow_remote_code == ()


@pytest.mark.parametrize(
    "setting", [f for f in dataclasses.fields(Settings) if f.metadata.get("choices")], ids=lambda f: f.name
)
def test_each_choice_of_a_setting_is_read_and_others_are_refused(setting: dataclasses.Field[object], tmp_path: Path) -> None:
    flag = "--" + setting.name.replace("_", "-")
    for choice in setting.metadata["choices"]:
        assert getattr(load(flag, choice, SMOLORA_HOME="/data"), setting.name) == choice
        assert getattr(load(toml=f'{setting.name} = "{choice}"', folder=tmp_path, SMOLORA_HOME="/data"), setting.name) == choice
    with pytest.raises(InvalidRequest, match=f"{flag} is 'int3', but must be one of {', '.join(setting.metadata['choices'])}"):
        load(flag, "int3", SMOLORA_HOME="/data")


def test_flags_go_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    toml = "max_queue = 2\nstall_s = 3\ndrain_s = 4.5\n"
    settings = load("--max-queue", "9", toml=toml, folder=tmp_path, SMOLORA_MAX_QUEUE="8", SMOLORA_STALL_S="7")
    assert (settings.max_queue, settings.stall_s, settings.drain_s, settings.max_generations) == (9, 7.0, 4.5, 64)


def test_the_file_may_be_named_by_flag_or_variable(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("max_queue = 1")
    two.write_text("max_queue = 2")
    assert load(SMOLORA_CONFIG=str(one)).max_queue == 1
    assert load("--config", str(two), SMOLORA_CONFIG=str(one)).max_queue == 2
    with pytest.raises(InvalidRequest, match=r"no file .*three\.toml; correct --config or SMOLORA_CONFIG"):
        load("--config", str(tmp_path / "three.toml"))


def test_every_kind_of_value_is_read_from_text(tmp_path: Path) -> None:
    settings = load(
        "--no-preload", "--device", "cpu", "--log-format", "json", "--log-file", str(tmp_path / "log"),
        SMOLORA_DTYPE="float32", SMOLORA_KEEP_ALIVE="-1", SMOLORA_SOCKET="unix:///run/x.sock",
    )  # fmt: skip
    assert (settings.preload, settings.device, settings.dtype) == (False, Device.CPU, Dtype.FLOAT32)
    assert settings.keep_alive < timedelta(0)
    assert settings.socket == Path("/run/x.sock")
    assert settings.log_file == tmp_path / "log"
    assert load(toml="prefix_cache_disk_bytes = 8_000_000_000", folder=tmp_path).prefix_cache_disk_bytes == 8 * 10**9
    with pytest.raises(InvalidRequest, match="SMOLORA_PREFIX_CACHE_DISK_BYTES is '-1'"):
        load(SMOLORA_PREFIX_CACHE_DISK_BYTES="-1")


def test_remote_code_is_allowed_in_the_file_alone(tmp_path: Path) -> None:
    settings = load(toml='allow_remote_code = ["owner/odd"]', folder=tmp_path)
    assert settings.allow_remote_code == ("owner/odd",)
    with pytest.raises(InvalidRequest, match="SMOLORA_ALLOW_REMOTE_CODE"):
        load(SMOLORA_ALLOW_REMOTE_CODE="owner/odd")
    with pytest.raises(SystemExit):
        load("--allow-remote-code", "owner/odd")


@pytest.mark.parametrize(
    ("toml", "where"),
    [
        ("max_quue = 1", r"smolorad\.toml: 'max_quue' is not a setting"),
        ("max_queue = 'many'", r"smolorad\.toml: max_queue is 'many', but must be a whole number"),
        ("max_queue = true", r"max_queue is True, but must be a whole number"),
        ("max_queue = 0", r"max_queue is 0, but must be at least 1"),
        ("stall_s = nan", r"stall_s is nan, but must be above 0"),
        ("preload = 'perhaps'", r"preload is 'perhaps', but must be true or false"),
        ("log_level = 'loud'", r"log_level is 'loud', but must be one of debug, info, warning, error"),
        ("device = 'gpu'", r"device is 'gpu', but must be one of cpu, mps, cuda"),
        ("keep_alive = 'a while'", r"keep_alive is 'a while', but must be a duration"),
        ("allow_remote_code = 'owner/odd'", r"allow_remote_code is 'owner/odd', but must be a list of texts"),
        ("[trainer]\nr = 1", r"'trainer' is not a setting"),
        ("max_queue = ", r"is not TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, toml: str, where: str) -> None:
    with pytest.raises(InvalidRequest, match=where):
        load(toml=toml, folder=tmp_path)


def test_what_is_wrong_elsewhere_is_named() -> None:
    with pytest.raises(InvalidRequest, match="SMOLORA_MAX_QUEUE is 'x', but must be a whole number"):
        load(SMOLORA_MAX_QUEUE="x")
    with pytest.raises(InvalidRequest, match="--max-queue is '-3', but must be at least 1"):
        load("--max-queue=-3")
    with pytest.raises(InvalidRequest, match="SMOLORA_MAX_QEUE, in the environment, is not a setting"):
        load(SMOLORA_MAX_QEUE="3")


def test_help_shows_every_flag_and_default() -> None:
    parser = argparse.ArgumentParser()
    Settings.add_arguments(parser)
    text = parser.format_help()
    for f in dataclasses.fields(Settings):
        if "help" in f.metadata and not f.metadata["in_file_only"]:
            assert "--" + f.name.replace("_", "-") in text
    assert "default: 512" in text
    assert "default: 30m" in text
    assert "default: true" in text


def test_a_flag_moves_the_socket_with_the_home() -> None:
    assert load("--home", "/a", SMOLORA_HOME="/b").socket == Path("/a/run/smolorad.sock")
    assert load("--home", "/a", SMOLORA_SOCKET="/s.sock").socket == Path("/s.sock")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("1h", 3600),
        ("1h30m", 5400),
        ("90", 90),
        (90, 90),
        (1.5, 1.5),
        ("500ms", 0.5),
        ("0", 0),
        ("-1", -1),
        ("-5m", -300),
    ],
)
def test_durations_are_ollamas(text: object, seconds: float) -> None:
    assert read_duration(text) == timedelta(seconds=seconds)


@given(st.text() | st.booleans() | st.integers() | st.floats() | st.none())
def test_a_duration_is_read_or_refused(raw: object) -> None:
    with contextlib.suppress(ValueError, TypeError):
        assert isinstance(read_duration(raw), timedelta)


@given(
    st.dictionaries(
        st.sampled_from(["max_queue", "stall_s", "preload", "home", "device", "x", "keep_alive"]), st.text(max_size=8)
    )
)
def test_any_environment_is_read_or_refused(values: dict[str, str]) -> None:
    environ = {PREFIX + name.upper(): value for name, value in values.items()}
    try:
        settings = Settings.load((), environ, NO_FILE)
    except InvalidRequest as error:
        named = [name for name in environ if name in error.message]
    else:
        named = []
        assert settings.max_queue >= 1
    assert named or "SMOLORA_X" not in environ
