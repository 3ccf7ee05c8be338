"""What doctor finds, well and not."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from smolorad import doctor


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    tested = doctor.tested_versions()
    assert tested["torch"] == ("2.14.1" if sys.platform == "darwin" else "2.13.0")
    assert tested["huggingface-hub"], "names are compared as packaging compares them"


@pytest.mark.parametrize(("platform", "version"), [("darwin", "2.14.1"), ("linux", "2.13.0")])
def test_a_version_for_one_system_is_the_tested_one_there(platform: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    tested = doctor.tested_versions()
    assert tested["torch"] == version
    assert len(tested) > 50


def test_a_library_s_version_is_held_against_the_tested_one() -> None:
    def version_of(name: str) -> str:
        versions = {"torch": "2.13.0+cpu", "peft": "0.1"}
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    found = {one.what: one for one in doctor.libraries({"torch": "2.13.0", "peft": "0.21.2"}, version_of)}
    assert (found["torch"].ok, found["torch"].text) == (True, "2.13.0+cpu")
    assert (found["peft"].ok, found["peft"].text) == (True, "0.1 (tested with 0.21.2)")
    assert (found["trl"].ok, found["trl"].text) == (False, "is missing; pip install 'smolora[daemon]'")


def test_a_socket_path_is_measured_in_bytes() -> None:
    assert doctor.socket_path(Path("/tmp/d.sock")).ok
    finding = doctor.socket_path(Path("/" + "ä" * 60))
    assert not finding.ok
    assert "121 bytes" in finding.text


def test_a_home_that_lets_others_in_is_found_and_left_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert doctor.permissions(home).ok, "the daemon makes it"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    finding = doctor.permissions(home)
    assert not finding.ok
    assert f"chmod 700 '{home}'" in finding.text
    assert home.stat().st_mode & 0o777 == 0o755
    home.chmod(0o700)
    assert doctor.permissions(home).ok
    link = tmp_path / "link"
    link.symlink_to(home)
    assert not doctor.permissions(link).ok


def test_the_device_is_asked_of_torch_in_a_child() -> None:
    finding = doctor.device()
    assert finding.ok, finding
    assert "torch" in finding.text


def test_an_absent_daemon_is_told_with_how_to_start_one(short_path: Path) -> None:
    finding = doctor.health(short_path / "d.sock")
    assert not finding.ok
    assert "smolorad serve" in finding.text


def test_room_on_the_disk_is_looked_for_where_the_home_will_be(tmp_path: Path) -> None:
    assert str(tmp_path) in doctor.disk(tmp_path / "not" / "there").text
