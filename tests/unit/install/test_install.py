"""What both service managers share: the place, the dry run, the runner."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smolorad import install
from smolorad.errors import BadState
from smolorad.install import Place, commands


def test_the_place_is_this_interpreter_and_what_the_shell_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell = {"SMOLORA_HOME": "state", "SMOLORA_MAX_QUEUE": "3", "HF_HOME": "/hf", "HF_TOKEN": "secret", "EDITOR": "vi"}
    here = Place.here(shell, tmp_path / "state")
    assert here.python == Path(sys.executable)
    assert here.home == tmp_path / "state"
    assert here.environ == {"HF_HOME": "/hf", "SMOLORA_HOME": str(tmp_path / "state"), "SMOLORA_MAX_QUEUE": "3"}, (
        "tokens do not belong into a file all can read, and a service has another working folder"
    )


@pytest.mark.parametrize(
    ("platform", "file", "commands_told"),
    [
        (
            "darwin",
            "Library/LaunchAgents/io.github.smolorad.plist",
            ["launchctl enable", "launchctl bootout", "launchctl bootstrap"],
        ),
        (
            "linux",
            ".config/systemd/user/smolorad.service",
            ["daemon-reload", "systemctl --user enable", "systemctl --user restart"],
        ),
    ],
)
def test_a_dry_run_tells_everything_and_changes_nothing(
    tmp_path: Path, platform: str, file: str, commands_told: list[str]
) -> None:
    told: list[str] = []
    install.rehearse({}, tmp_path / "home", told.append, platform=platform)
    text = "\n".join(told)
    assert text.index(file) < text.index("smolorad.cli")
    places = [text.index(command) for command in commands_told]
    assert places == sorted(places)
    assert list(tmp_path.iterdir()) == []


def test_the_log_file_of_the_settings_reaches_the_launch_agent(tmp_path: Path) -> None:
    told: list[str] = []
    install.rehearse({}, tmp_path / "home", told.append, platform="darwin", log_file=Path("/var/own.log"))
    assert "<string>/var/own.log</string>" in "\n".join(told)


@pytest.mark.parametrize(
    ("platform", "command"), [("darwin", "launchctl bootout"), ("linux", "systemctl --user disable --now")]
)
def test_a_dry_removal_tells_what_would_go(tmp_path: Path, platform: str, command: str) -> None:
    told: list[str] = []
    install.rehearse({}, tmp_path, told.append, platform=platform, remove=True)
    assert any(command in line for line in told)
    assert told[-1].startswith("rm ")


def test_a_missing_service_manager_is_named_with_the_way_out() -> None:
    with pytest.raises(BadState, match="no no-such-command here; start the daemon yourself with `smolorad serve`"):
        commands.run(["no-such-command"])


def test_a_command_s_words_and_status_are_kept() -> None:
    answer = commands.run([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"])
    assert answer.status == 3
    assert sorted(answer.output.split()) == ["err", "out"]
