"""The systemd user unit's keys, and the commands around it."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from smolorad import install
from smolorad.errors import BadState, InvalidRequest
from smolorad.install import Place, Systemd
from smolorad.install.commands import Answer


def place(tmp_path: Path, **environ: str) -> Place:
    return Place(
        python=Path("/opt/smolora/bin/python"),
        user_home=tmp_path / "alice",
        home=tmp_path / "alice" / "state",
        logs=tmp_path / "alice" / "logs",
        uid=1000,
        environ=environ,
    )


def keys(unit: bytes) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit.decode())
    return {section: dict(parser[section]) for section in parser.sections()}


def test_the_unit_has_every_key_with_its_value(tmp_path: Path) -> None:
    here = place(tmp_path)
    found = keys(Systemd(here).render())
    environment = found["Service"].pop("Environment")
    assert environment == "PYTHONUNBUFFERED=1"  # the parser keeps the last of several
    assert found["Service"] == {
        "Type": "notify",
        "ExecStart": '"/opt/smolora/bin/python" -m smolorad.cli serve',
        "WorkingDirectory": str(here.home),
        "Restart": "on-failure",
        "RestartSec": "2",
        "RestartPreventExitStatus": "3 78",
        "TimeoutStopSec": "60",
        "KillMode": "mixed",
        "OOMPolicy": "continue",
        "UMask": "0077",
        "LimitNOFILE": "8192",
        "RuntimeDirectory": "smolora",
        "RuntimeDirectoryMode": "0700",
        "NoNewPrivileges": "yes",
        "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    }
    assert found["Install"] == {"WantedBy": "default.target"}


def test_settings_of_the_shell_are_carried_and_escaped(tmp_path: Path) -> None:
    unit = Systemd(place(tmp_path, SMOLORA_HOME='/data/50% "x"', HF_HOME="/hf")).render().decode()
    assert 'Environment="SMOLORA_HOME=/data/50%% \\"x\\""\nEnvironment="HF_HOME=/hf"\n' in unit
    assert "{" not in unit


def test_a_line_break_cannot_smuggle_a_line_in(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="line break"):
        Systemd(place(tmp_path, SMOLORA_HOME="/a\nExecStartPre=/bin/true")).render()


def test_systemd_itself_finds_no_fault(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    here = place(tmp_path, HF_HOME="/with space")
    here.home.mkdir(parents=True)
    interpreter = Path(shutil.which("python3") or "/usr/bin/python3")
    service = Systemd(Place(interpreter, here.user_home, here.home, here.logs, here.uid, here.environ))
    unit = tmp_path / "smolorad.service"
    unit.write_bytes(service.render())
    run = subprocess.run(
        [analyze, "--user", "verify", str(unit)],
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in (run.stdout + run.stderr).splitlines() if "smolorad.service" in line]
    assert ours == []


def test_installing_writes_enables_and_restarts(tmp_path: Path) -> None:
    said: list[str] = []

    def systemctl(command: Sequence[str]) -> Answer:
        said.append(" ".join(command))
        return Answer(0)

    unit = Systemd(place(tmp_path), systemctl)
    install.install(unit)
    assert unit.path == tmp_path / "alice/.config/systemd/user/smolorad.service"
    assert unit.path.read_bytes() == unit.render()
    assert said == [
        "systemctl --user daemon-reload",
        "systemctl --user enable smolorad.service",
        "systemctl --user restart smolorad.service",
        "systemctl --user is-active smolorad.service",
    ]
    assert install.uninstall(unit) is True
    assert said[-1] == "systemctl --user disable --now smolorad.service"


def test_what_systemd_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    unit = Systemd(place(tmp_path), lambda command: Answer(1, "Failed to connect to bus:\nNo medium found\n"))
    with pytest.raises(BadState, match=r"daemon-reload` failed \(Failed to connect to bus: No medium found\)"):
        install.install(unit)
