"""Whose folders and files smolora takes, and what it never touches."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from smolorad import daemon
from smolorad.config import Settings
from smolorad.errors import InvalidRequest, NoAccess, NotFound, of_system
from smolorad.paths import Home, check_readable, private_folder, socket_folder, user_path


def mode_of(path: Path) -> int:
    """Its permission bits, the sticky one included."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o711, 0o500])
def test_the_folder_of_a_socket_stays_as_it_is(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    folder.chmod(mode)
    socket_folder(folder)
    assert mode_of(folder) == mode


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775, 0o702, 0o2770])
def test_a_socket_is_not_put_where_others_may_write(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(InvalidRequest, match="SMOLORA_SOCKET"):
        socket_folder(folder)
    assert mode_of(folder) == mode


def test_the_folder_of_a_socket_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    socket_folder(tmp_path / "a" / "b")
    assert mode_of(tmp_path / "a" / "b") == 0o700


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o750, 0o777, 0o3777])
def test_a_shared_folder_never_becomes_a_home(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "thesis.txt").touch()
    folder.chmod(mode)
    with pytest.raises(InvalidRequest, match="SMOLORA_HOME"):
        Home(folder).create()
    assert mode_of(folder) == mode
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_becomes_a_home_and_is_closed_but_not_a_sticky_one(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    Home(folder).create()
    assert mode_of(folder) == 0o700
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    with pytest.raises(InvalidRequest):
        Home(sticky).create()
    assert mode_of(sticky) == 0o1777


@pytest.mark.parametrize("mode", [0o1777, 0o755])
def test_only_a_folder_of_ones_own_is_said_to_be_closed_by_hand(tmp_path: Path, mode: int) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(mode)
    with pytest.raises(InvalidRequest) as caught:
        private_folder(tmp_path, ours=lambda: False)
    assert ("chmod" in caught.value.message) == (mode == 0o755)
    with pytest.raises(InvalidRequest) as caught:
        private_folder(Path("/"), ours=lambda: False)
    assert "chmod" not in caught.value.message


def test_a_home_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.database.touch()
    for folder in (home.root, home.models):
        folder.chmod(0o755)
    home.create()
    assert mode_of(home.root) == mode_of(home.models) == 0o700


@pytest.mark.parametrize("name", ["smolora.db", "lock"])
@pytest.mark.parametrize("kind", ["a folder", "a link", "a link to nowhere", "a pipe"])
def test_what_stands_where_smolora_writes_is_refused_and_not_followed(tmp_path: Path, name: str, kind: str) -> None:
    home = Home(tmp_path / "home")
    home.create()
    path, elsewhere = home.root / name, tmp_path / "elsewhere"
    match kind:
        case "a folder":
            path.mkdir()
        case "a link":
            elsewhere.write_text("mine")
            path.symlink_to(elsewhere)
        case "a link to nowhere":
            path.symlink_to(elsewhere)
        case "a pipe":
            os.mkfifo(path)
    with pytest.raises(InvalidRequest, match=name):
        daemon.run(Settings.load((), {"SMOLORA_HOME": str(home.root), "SMOLORA_SOCKET": str(tmp_path / "d.sock")}))
    assert elsewhere.exists() == (kind == "a link")


@pytest.mark.parametrize("name", ["datasets", "models", "uploads", "jobs"])
def test_a_link_in_place_of_a_folder_of_the_home_is_refused(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / "home")
    home.create()
    (home.root / name).rmdir()
    (home.root / name).symlink_to(tmp_path)
    with pytest.raises(InvalidRequest, match="link"):
        home.create()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("relative/a", "absolute"),
        ("", "absolute"),
        ("/a\0b", "NUL"),
        ("/" + "n" * 256, "too long"),
        ("/" + "ä" * 128, "too long"),
        ("/a" * 2048, "too long"),
    ],
)
def test_a_path_that_no_system_has_is_refused_with_its_field(path: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        user_path(path, "path")
    assert [violation.field for violation in caught.value.violations] == ["path"]
    assert "\0" not in caught.value.message
    assert len(caught.value.message) < 500


def test_a_path_of_the_greatest_length_is_taken() -> None:
    assert str(user_path("/" + "n" * 255, "path")) == "/" + "n" * 255
    assert len(str(user_path("/a" * 2047, "path"))) == 4094


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "nested.json").mkdir()
    check_readable(tmp_path, {".json"})
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InvalidRequest, match="no regular file"):
        check_readable(tmp_path, {".json"})
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to(tmp_path / "gone")
    with pytest.raises(NotFound, match=r"config\.json does not exist"):
        check_readable(tmp_path, {".json"})


def test_macos_is_told_where_services_may_not_read() -> None:
    error = PermissionError(1, "Operation not permitted", "/Users/ada/Documents/model/config.json")
    found = of_system(error, "darwin")
    assert isinstance(found, NoAccess)
    assert "Documents/model/config.json" in found.message
    assert "Full Disk Access" in found.message
    assert "Full Disk" not in str(of_system(error, "linux"))


def test_private_folder_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(InvalidRequest, match="not a folder"):
        private_folder(tmp_path / "a")
