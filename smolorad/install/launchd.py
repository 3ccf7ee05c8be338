"""The LaunchAgent: its property list, and the dance that launchctl asks for."""

from __future__ import annotations

import plistlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from smolorad.errors import BadState
from smolorad.install import commands
from smolorad.install.commands import Runner, must
from smolorad.install.environment import Place, template

LABEL = "io.github.smolorad"
PATIENCE_S = 15.0
_PAUSE_S = 0.25
_IO_ERROR = 5  # bootstrap's answer for some seconds after a bootout


class Launchd:
    """The service `io.github.smolorad` of one user."""

    def __init__(
        self,
        place: Place,
        run: Runner = commands.run,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.place = place
        self.path = place.user_home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        self._log = place.log_file or place.logs / "smolorad.log"
        self._run = run
        self._clock = clock
        self._pause = pause

    def render(self) -> bytes:
        """The property list."""
        words = {
            "{LABEL}": LABEL,
            "{PYTHON}": str(self.place.python),
            "{BIN}": str(self.place.python.parent),
            "{HOME}": str(self.place.home),
            "{LOGS}": str(self.place.logs),
            "{LOG}": str(self._log),
        }
        agent: dict[str, Any] = _filled(plistlib.loads(template(f"{LABEL}.plist.template")), words)
        agent["EnvironmentVariables"] |= self.place.environ
        return plistlib.dumps(agent)

    def start(self, changed: bool) -> None:
        """Starts the service with launchd; raises BadState where launchctl refuses."""
        domain = self._domain()
        service = f"{domain}/{LABEL}"
        must(self._run, "launchctl", "enable", service)
        if not changed and self._is_loaded(service):
            must(self._run, "launchctl", "kickstart", "-k", service)
            return
        self._boot_out(service)
        if not self._until(lambda: self._bootstrap(domain)):
            raise BadState(self._why_not(domain))

    def verify(self) -> None:
        """Makes sure that the service has a process; raises BadState."""
        service = f"{self._domain()}/{LABEL}"
        if not self._is_running(service):
            must(self._run, "launchctl", "kickstart", service)
            if not self._until(lambda: self._is_running(service)):
                logs = f"{self._log} and {self.place.logs}/smolorad.err.log"
                raise BadState(f"launchd has the service, but no process of it lives; read {logs}.")

    def stop(self) -> None:
        """Ends the service, if there is one."""
        self._boot_out(f"{self._domain()}/{LABEL}")

    def advice(self) -> str:
        """What the user may want to know after the installation; may be empty."""
        return ""

    def _domain(self) -> str:
        """`gui/UID`, which exists only where the user has logged in on the screen; else `user/UID`."""
        gui = f"gui/{self.place.uid}"
        return gui if self._run(["launchctl", "print", gui]).status == 0 else f"user/{self.place.uid}"

    def _is_loaded(self, service: str) -> bool:
        return self._run(["launchctl", "print", service]).status == 0

    def _is_running(self, service: str) -> bool:
        answer = self._run(["launchctl", "print", service])
        return answer.status == 0 and "pid = " in answer.output

    def _boot_out(self, service: str) -> None:
        # Its status says little (3 and 113: was not loaded; 36: under way). What counts is that the service goes.
        self._run(["launchctl", "bootout", service])
        if not self._until(lambda: not self._is_loaded(service)):
            raise BadState(f"launchd did not let {service} go within {PATIENCE_S:.0f} s; run `launchctl bootout {service}`.")

    def _bootstrap(self, domain: str) -> bool:
        answer = self._run(["launchctl", "bootstrap", domain, str(self.path)])
        if answer.status not in (0, _IO_ERROR):
            raise BadState(f"launchd refused {self.path} ({' '.join(answer.output.split())}); check it with `plutil -lint`.")
        return answer.status == 0

    def _why_not(self, domain: str) -> str:
        disabled = self._run(["launchctl", "print-disabled", domain]).output
        if f'"{LABEL}" => disabled' in disabled or f'"{LABEL}" => true' in disabled:
            return "The service is switched off; allow it under System Settings, General, Login Items, and install again."
        return f"launchd answered with an input/output error for {PATIENCE_S:.0f} s; run `smolorad install` again in a minute."

    def _until(self, condition: Callable[[], bool]) -> bool:
        """Whether a condition becomes true in time. It polls: launchctl has no command that waits."""
        deadline = self._clock() + PATIENCE_S
        while not condition():
            if self._clock() >= deadline:
                return False
            self._pause(_PAUSE_S)
        return True


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    """The template's value with its words filled in: plistlib, not we, knows how XML is escaped."""
    if isinstance(value, str):
        for word, meaning in words.items():
            value = value.replace(word, meaning)
        return value
    if isinstance(value, list):
        return [_filled(one, words) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, words) for key, one in value.items()}
    return value
