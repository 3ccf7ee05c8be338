"""`smolorad`: serve, install, uninstall, doctor, train-job.

The script exists without the daemon extra too, so this module needs the standard library alone; each command imports what it
needs when it runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

from smolora.common.argv import join_negative
from smolorad import __version__
from smolorad.errors import InvalidRequest, SmoloraError, system_errors

# sysexits' EX_CONFIG. The systemd unit names it, and the daemon's own EXIT_ALREADY_RUNNING: starting again would not help.
EXIT_CONFIG = 78
_EXTRA = ("torch", "transformers", "peft", "trl", "datasets", "grpc_health", "grpc_reflection", "msgspec", "psutil")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status: 0 done, 1 failed, 2 usage, 3 a daemon runs already, 78 settings that cannot work."""
    # grpc reads it when it is imported. Forking under a server's threads is unsafe, and we spawn.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    argv = list(sys.argv[1:] if argv is None else argv)
    if (argv[:1] or [""])[0] in _NEED_EXTRA and (missing := _missing()):
        print(f"smolorad needs the daemon extra: pip install 'smolora[daemon]' ({missing} is missing)", file=sys.stderr)
        return 1
    given = _parser(argv[:1]).parse_args(join_negative(argv))
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        with system_errors():
            return command(given)
    except SmoloraError as error:
        print(f"smolorad: {error.message}", file=sys.stderr)
        return 1


def _parser(chosen: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smolorad", description="The daemon that keeps a small language model in memory.")
    parser.add_argument("--version", action="version", version=f"smolorad {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser(
        "serve", help="run the daemon in the foreground", description="Run the daemon in the foreground."
    )
    serve.set_defaults(command=_serve)
    serve.add_argument("--under-launchd", action="store_true", help="exit with 0 where starting again would not help")
    if list(chosen) == ["serve"]:
        from smolorad.config import Settings

        Settings.add_arguments(serve)

    install = commands.add_parser(
        "install",
        help="install as a login service",
        description="Install the daemon as a login service of this user: with launchd on macOS, with systemd on Linux.",
    )
    install.set_defaults(command=_install)
    uninstall = commands.add_parser(
        "uninstall",
        help="remove the login service",
        description="Remove the login service and its file; models and jobs stay.",
    )
    uninstall.set_defaults(command=_uninstall)
    for one in (install, uninstall):
        one.add_argument("-n", "--dry-run", action="store_true", help="print the file and the commands, and change nothing")

    train_job = commands.add_parser(
        "train-job",
        help="train from a file, without the daemon",
        description=(
            "Train from a JSON file, without the daemon; `accelerate launch` or `torchrun` may start it several times. It "
            "names the folders model, dataset and output, and has the settings lora and trainer as the contract names them."
        ),
    )
    train_job.add_argument("file", help="the JSON file; its paths are relative to it")
    train_job.set_defaults(command=_train_job)

    doctor = commands.add_parser(
        "doctor", help="check this machine", description="Check this machine; exits with 1 if a check fails."
    )
    doctor.set_defaults(command=_doctor)
    return parser


def _missing() -> str:
    """The first package of the daemon extra that is not installed; empty if all are."""
    return next((name for name in _EXTRA if importlib.util.find_spec(name) is None), "")


def _serve(given: argparse.Namespace) -> int:
    from smolorad.config import Settings

    try:
        with system_errors():
            settings = Settings.resolve(vars(given), os.environ)
            from smolorad.daemon import EXIT_ALREADY_RUNNING, run

            status = run(settings)
        is_hopeless = status == EXIT_ALREADY_RUNNING
    except SmoloraError as error:
        print(f"smolorad: {error.message}", file=sys.stderr)
        status, is_hopeless = EXIT_CONFIG, True
    # launchd restarts a service for ever that does not exit with 0.
    return 0 if given.under_launchd and is_hopeless else status


def _install(given: argparse.Namespace) -> int:
    from smolorad import doctor, install
    from smolorad.config import Settings

    settings = Settings.resolve({}, os.environ)
    if given.dry_run:
        install.rehearse(os.environ, settings.home, print, log_file=settings.log_file)
        return 0
    service = install.manager(os.environ, settings.home, log_file=settings.log_file)
    install.install(service)
    answer = doctor.health(settings.socket, wait_s=15.0)
    print(f"{service.path} is installed; the daemon {answer.text}.")
    if advice := service.advice():
        print(advice)
    return 0 if answer.ok else 1


def _uninstall(given: argparse.Namespace) -> int:
    from smolora.common.paths import home_path
    from smolorad import install

    try:
        home = home_path(os.environ)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if given.dry_run:
        install.rehearse(os.environ, home, print, remove=True)
        return 0
    service = install.manager(os.environ, home)
    print(f"{service.path} is removed." if install.uninstall(service) else f"There is no {service.path}; nothing to remove.")
    return 0


def _doctor(given: argparse.Namespace) -> int:
    from smolorad import doctor
    from smolorad.config import Settings

    settings = Settings.resolve({}, os.environ)
    findings = doctor.examine(settings.home, settings.socket)
    well = True
    for finding in findings:
        print(finding, flush=True)
        well = well and finding.ok
    return 0 if well else 1


def _train_job(given: argparse.Namespace) -> int:
    # This process becomes the training: launchers watch the one that they have started.
    os.execv(sys.executable, [sys.executable, "-m", "smolorad.engine.train_job", given.file])


_NEED_EXTRA = ("serve", "install", "doctor", "train-job")

if __name__ == "__main__":
    sys.exit(main())
