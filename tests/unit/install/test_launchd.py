"""The LaunchAgent's keys, and launchctl's dance against a scripted launchctl."""

from __future__ import annotations

import plistlib
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from smolorad import install
from smolorad.errors import BadState
from smolorad.install import Launchd, Place
from smolorad.install.commands import Answer

SERVICE = "gui/501/io.github.smolorad"
NOT_LOADED = Answer(113, "Could not find service")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(
        python=Path("/opt/smolora & co/.venv/bin/python"),
        user_home=tmp_path / "alice",
        home=tmp_path / "alice" / "state",
        logs=tmp_path / "alice" / "logs",
        uid=501,
        environ={"SMOLORA_SOCKET": "/tmp/a <b>.sock"},
    )


class FakeLaunchctl:
    """Answers as launchd does: bootout is over some asks later, bootstrap refuses for a while after it."""

    def __init__(
        self, *, loaded: bool = False, lingers: int = 0, io_errors: int = 0, starts: bool = True, gui: bool = True
    ) -> None:
        self.loaded, self.lingers, self.io_errors, self.starts, self.gui = loaded, lingers, io_errors, starts, gui
        self.going = False
        self.disabled = ""
        self.said: list[str] = []
        self.now = 0.0

    def __call__(self, command: Sequence[str]) -> Answer:
        assert command[0] == "launchctl"
        self.said.append(" ".join(command[1:]))
        return getattr(self, "_" + command[1].replace("-", "_"))(*command[2:])

    def verbs(self) -> list[str]:
        """What was asked for, without the questions."""
        return [line.split()[0] for line in self.said if not line.startswith("print")]

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def _print(self, target: str) -> Answer:
        if target.count("/") == 1:
            return Answer(0 if self.gui or target.startswith("user") else 113)
        if self.going:
            self.lingers -= 1
            self.going = self.loaded = self.lingers > 0
        return Answer(0, "state = running\n\tpid = 4711" if self.starts else "state = waiting") if self.loaded else NOT_LOADED

    def _print_disabled(self, domain: str) -> Answer:
        return Answer(0, self.disabled)

    def _enable(self, service: str) -> Answer:
        return Answer(0)

    def _bootout(self, service: str) -> Answer:
        if not self.loaded:
            return Answer(3, "Boot-out failed: 3: No such process")
        self.going = True
        return Answer(0)

    def _bootstrap(self, domain: str, path: str) -> Answer:
        assert Path(path).is_file()
        if self.io_errors:
            self.io_errors -= 1
            return Answer(5, "Bootstrap failed: 5: Input/output error")
        self.loaded = True
        return Answer(0)

    def _kickstart(self, *rest: str) -> Answer:
        self.starts = True
        return Answer(0)


def service(place: Place, launchctl: FakeLaunchctl) -> Launchd:
    return Launchd(place, launchctl, clock=lambda: launchctl.now, pause=launchctl.pause)


def test_the_property_list_has_every_key_with_its_value(place: Place) -> None:
    assert plistlib.loads(Launchd(place).render()) == {
        "Label": "io.github.smolorad",
        "ProgramArguments": [
            str(place.python),
            "-m",
            "smolorad.cli",
            "serve",
            "--under-launchd",
            "--log-file",
            f"{place.logs}/smolorad.log",
        ],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ProcessType": "Interactive",
        "ExitTimeOut": 30,
        "Umask": 63,
        "SoftResourceLimits": {"NumberOfFiles": 4096},
        "EnvironmentVariables": {
            "PATH": f"{place.python.parent}:/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "HF_DEACTIVATE_ASYNC_LOAD": "1",
            "PYTORCH_ENABLE_MPS_FALLBACK": "1",
            "PYTHONUNBUFFERED": "1",
            "SMOLORA_SOCKET": "/tmp/a <b>.sock",
        },
        "WorkingDirectory": str(place.home),
        "StandardOutPath": f"{place.logs}/smolorad.out.log",
        "StandardErrorPath": f"{place.logs}/smolorad.err.log",
        "LimitLoadToSessionType": ["Aqua", "Background", "LoginWindow", "StandardIO", "System"],
    }


def test_a_log_file_of_the_user_s_own_is_kept(place: Place) -> None:
    agent = plistlib.loads(Launchd(replace(place, log_file=Path("/var/own.log"))).render())
    assert agent["ProgramArguments"][-2:] == ["--log-file", "/var/own.log"]


def test_a_service_that_does_not_live_is_reported_with_the_logs_to_read(place: Place) -> None:
    launchctl = FakeLaunchctl(starts=False)
    launchctl._kickstart = lambda *rest: Answer(0)  # type: ignore[method-assign]
    with pytest.raises(BadState, match=f"read {place.logs}/smolorad.log and {place.logs}/smolorad.err.log"):
        install.install(service(place, launchctl))


def test_the_property_list_survives_a_round_trip_and_leaves_no_word_unfilled(place: Place) -> None:
    rendered = Launchd(place).render()
    assert plistlib.dumps(plistlib.loads(rendered)) == rendered
    assert b"{" not in rendered


def test_a_first_installation_writes_the_file_and_bootstraps_it(place: Place) -> None:
    launchctl = FakeLaunchctl()
    agent = service(place, launchctl)
    install.install(agent)
    assert agent.path == place.user_home / "Library/LaunchAgents/io.github.smolorad.plist"
    assert stat.S_IMODE(agent.path.stat().st_mode) == 0o644
    assert [file.name for file in agent.path.parent.iterdir()] == [agent.path.name]
    assert place.home.is_dir()
    assert place.logs.is_dir()
    assert launchctl.verbs() == ["enable", "bootout", "bootstrap"]
    assert f"bootstrap gui/501 {agent.path}" in launchctl.said


def test_an_unchanged_service_is_restarted_in_place(place: Place) -> None:
    install.install(service(place, FakeLaunchctl()))
    launchctl = FakeLaunchctl(loaded=True)
    install.install(service(place, launchctl))
    assert launchctl.verbs() == ["enable", "kickstart"]
    assert f"kickstart -k {SERVICE}" in launchctl.said


def test_a_changed_service_is_booted_out_and_awaited_before_it_comes_again(place: Place) -> None:
    install.install(service(place, FakeLaunchctl()))
    launchctl = FakeLaunchctl(loaded=True, lingers=3, io_errors=2)
    install.install(service(replace(place, python=Path("/other/python")), launchctl))
    assert launchctl.verbs() == ["enable", "bootout", "bootstrap", "bootstrap", "bootstrap"]
    between = launchctl.said[launchctl.said.index(f"bootout {SERVICE}") + 1 :]
    assert between[:3] == [f"print {SERVICE}"] * 3


def test_a_service_that_is_registered_but_idle_is_started(place: Place) -> None:
    launchctl = FakeLaunchctl(starts=False)
    install.install(service(place, launchctl))
    assert launchctl.verbs()[-1] == "kickstart"


def test_without_a_login_on_the_screen_the_user_domain_is_taken(place: Place) -> None:
    launchctl = FakeLaunchctl(gui=False)
    install.install(service(place, launchctl))
    assert "enable user/501/io.github.smolorad" in launchctl.said


def test_a_service_that_does_not_go_is_reported_with_what_to_type(place: Place) -> None:
    launchctl = FakeLaunchctl(loaded=True, lingers=10_000)
    with pytest.raises(BadState, match=f"launchctl bootout {SERVICE}"):
        install.install(service(place, launchctl))


def test_a_service_switched_off_by_hand_is_recognised(place: Place) -> None:
    launchctl = FakeLaunchctl(io_errors=10_000)
    launchctl.disabled = '"io.github.smolorad" => disabled'
    with pytest.raises(BadState, match="Login Items"):
        install.install(service(place, launchctl))


def test_uninstalling_ends_the_service_and_removes_the_file_but_keeps_the_state(place: Place) -> None:
    agent = service(place, FakeLaunchctl())
    install.install(agent)
    launchctl = FakeLaunchctl(loaded=True, lingers=2)
    assert install.uninstall(service(place, launchctl)) is True
    assert launchctl.verbs() == ["bootout"]
    assert not agent.path.exists()
    assert place.home.is_dir()
    assert install.uninstall(service(place, FakeLaunchctl())) is False
