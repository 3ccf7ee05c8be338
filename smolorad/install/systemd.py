"""The systemd user unit, and the commands that put it into force."""

from __future__ import annotations

from smolorad.errors import InvalidRequest
from smolorad.install import commands
from smolorad.install.commands import Runner, must
from smolorad.install.environment import Place, template

UNIT = "smolorad.service"
_SYSTEMCTL = ("systemctl", "--user")


class Systemd:
    """The unit `smolorad.service` of one user."""

    def __init__(self, place: Place, run: Runner = commands.run) -> None:
        self.place = place
        self.path = place.user_home / ".config" / "systemd" / "user" / UNIT
        self._run = run

    def render(self) -> bytes:
        """The unit; raises InvalidRequest where a path or a setting has a line break in it."""
        environment = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in self.place.environ.items())
        words = {
            "{PYTHON}": _quoted(str(self.place.python)).replace("$", "$$"),
            "{HOME}": _whole(str(self.place.home)),
            "{ENVIRONMENT}\n": environment + "\n" if environment else "",
        }
        unit = template(f"{UNIT}.template").decode()
        for word, meaning in words.items():
            unit = unit.replace(word, meaning)
        return unit.encode()

    def start(self, changed: bool) -> None:
        """Starts the unit with systemd; returns when the daemon answers. Raises BadState where systemd refuses."""
        must(self._run, *_SYSTEMCTL, "daemon-reload")
        must(self._run, *_SYSTEMCTL, "enable", UNIT)
        must(self._run, *_SYSTEMCTL, "restart", UNIT)

    def verify(self) -> None:
        """Makes sure that the unit is active; raises BadState."""
        must(self._run, *_SYSTEMCTL, "is-active", UNIT)

    def stop(self) -> None:
        """Ends the unit, if there is one."""
        self._run([*_SYSTEMCTL, "disable", "--now", UNIT])

    def advice(self) -> str:
        """What the user may want to know after the installation."""
        return "It ends when you log out; `loginctl enable-linger` keeps it."


def _whole(value: str) -> str:
    """A value that takes the rest of its line."""
    if "\n" in value or "\r" in value:
        raise InvalidRequest(f"{value!r} has a line break, which a systemd unit cannot have; choose another value.")
    return value.replace("%", "%%")


def _quoted(value: str) -> str:
    """A value among others on its line."""
    escaped = _whole(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
