"""Eyeline as a service of systemd: installed, removed, shown.

The unit restricts the program to the minimum: a user of its own that exists only while it runs, a
read-only system, no capability, the devices of cameras and GPUs, and four folders to write to. If
only the owner can read the checkout, the program runs as that owner instead.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pipeline.config import NAME, ROOT
from pipeline.errors import ConfigError, RunError, SetupError
from pipeline.messages import name_of
from pipeline.service.accounts import Account, account_for, user_name
from pipeline.service.unit import AUTHOR, settings_in, unit_text
from pipeline.text_files import read_text

RUNNING_SYSTEMD = Path("/run/systemd/system")

NOT_ACTIVE, NOT_INSTALLED = 3, 4
"""Exit status of `status`, as systemctl has them; 0: it runs."""


class Service:
    """One service of systemd, of the system or of one user."""

    def __init__(self, name: str, of_user: bool) -> None:
        """Work out the paths; change nothing.

        Args:
            name: name of the unit, without `.service`.
            of_user: whether it belongs to the current user, not to the system.

        Raises:
            SetupError: this cannot be the name of a service.
        """
        if not re.fullmatch(NAME.strip("^$"), name):
            raise SetupError(
                f"--name {name!r}: expected letters, digits, - and _, beginning with a letter"
            )
        self.name, self.of_user = name, of_user
        if of_user:
            home = _home()
            folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
            self.unit_path = folder / "systemd" / "user" / f"{name}.service"
            self.secrets = folder / "eyeline" / f"{name}.env"
            self._environment = {"HOME": str(home)}
        else:
            self.unit_path = Path(f"/etc/systemd/system/{name}.service")
            self.secrets = Path(f"/etc/eyeline/{name}.env")
            self._environment = {
                "HOME": f"/var/lib/{name}",
                "XDG_CACHE_HOME": f"/var/cache/{name}",
            }

    @property
    def systemctl(self) -> str:
        """Command to control this service."""
        return "systemctl --user" if self.of_user else "systemctl"

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """Set variables and working directory as the service has them, to check its settings.

        Raises:
            SetupError: as raised inside, with advice; or the secrets cannot be read.
        """
        before, folder = dict(os.environ), os.getcwd()
        inside = {"PATH": os.defpath, **self._environment, **read_variables(self.secrets)}
        with tempfile.TemporaryDirectory() as empty:
            os.environ.clear()
            os.environ.update(inside)
            os.chdir(empty)
            try:
                yield
            except SetupError as error:
                raise SetupError(f"{error}{self._advice(str(error))}") from None
            finally:
                os.chdir(folder)
                os.environ.clear()
                os.environ.update(before)

    def _advice(self, problem: str) -> str:
        if "environment variable" in problem:
            return f"; the service reads it from {self.secrets}, as a line NAME=value"
        if "models fetch" in problem and "XDG_CACHE_HOME" in self._environment:
            return f" (with XDG_CACHE_HOME={self._environment['XDG_CACHE_HOME']} before it)"
        return ""

    # --- the unit ---

    def account(self, config: Path, files: Sequence[Path] = ()) -> Account:
        """Return the account that can read the files of the service.

        Args:
            config: the settings file, absolute.
            files: other files that it reads.

        Raises:
            SetupError: it could not be read.
        """
        read = [ROOT / "run.py", Path(__file__), Path(sys.executable), Path(os.__file__)]
        read += [Path(str(msgspec.__file__)), config, *files]
        for path in read:
            if not str(path).isprintable():
                raise SetupError(
                    f"{str(path)!r}: a unit file cannot hold such characters; rename it"
                )
        if set(sys.executable) & set("'\"\\"):
            raise SetupError(
                f"{sys.executable}: systemd cannot start a program with quotes in its path; move it"
            )
        return Account("", False) if self.of_user else account_for(read)

    def unit(self, config: Path, stop_timeout_s: float, account: Account) -> str:
        """Return the text of the unit file.

        Args:
            config: the settings file, absolute.
            stop_timeout_s: time for frames in flight to drain.
            account: user that runs it.
        """
        return unit_text(self.name, self.of_user, config, self.secrets, stop_timeout_s, account)

    def installed(self) -> str | None:
        """Return the text of the installed unit, if there is one.

        Raises:
            SetupError: a unit of this name exists, but is not ours.
        """
        try:
            text = self.unit_path.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SetupError(f"{self.unit_path}: cannot be read: {error.strerror}") from None
        if not text.startswith(AUTHOR):
            raise SetupError(
                f"{self.unit_path} exists and was not written by Eyeline; not changed. Choose "
                "another --name"
            )
        return text

    def settings_path(self) -> Path | None:
        """Return the settings file of the installed unit."""
        return settings_in(self.installed() or "")

    # --- actions ---

    def install(self, unit: str) -> Iterator[str]:
        """Write the unit, enable and start it; yield a line for each step.

        Raises:
            SetupError: no permission, or no systemd.
            RunError: systemd refuses it, or it does not start.
        """
        before = self.installed()
        self._require_systemd()
        changed = before != unit
        if changed:
            self._write(unit)
            yield f"{'wrote' if before is None else 'replaced'} {self.unit_path}"
            self._systemctl("daemon-reload")
        else:
            yield f"{self.unit_path} is up to date"
        self._systemctl("enable", "--quiet", self.name)
        if self.secrets.exists() and self.secrets.stat().st_mode & 0o077:
            yield f"{self.secrets}: other users can read it; run chmod 600 {self.secrets}"
        active = self._show("ActiveState").get("ActiveState") == "active"
        verb = "restart" if changed or not active else "reload"
        try:
            self._systemctl(verb, self.name)
        except RunError:
            raise RunError(
                f"{self.name} is installed but did not {'re' * (verb == 'reload')}start: "
                f"{self._last_log_line()}; see journalctl{' --user' * self.of_user} -u {self.name}"
            ) from None
        if verb == "reload":
            yield f"{self.name} runs, and reloads its settings"
        else:
            yield f"{self.name} runs, and starts with the {'session' * self.of_user or 'machine'}"
        yield f"its log: journalctl{' --user' * self.of_user} -u {self.name} -f"
        if self.of_user:
            yield f"to run it without a session: loginctl enable-linger {user_name(os.getuid())}"

    def uninstall(self) -> Iterator[str]:
        """Stop, disable and remove the service; yield a line for each step.

        Raises:
            SetupError: no permission, no systemd, or the unit is not ours.
            RunError: systemd refuses it.
        """
        if self.installed() is None:
            yield f"{self.name} is not installed: there is no {self.unit_path}"
            return
        self._require_systemd()
        self._systemctl("disable", "--quiet", "--now", self.name)
        try:
            self.unit_path.unlink()
        except OSError as error:
            raise RunError(f"{self.unit_path}: cannot be removed: {error.strerror}") from None
        self._systemctl("daemon-reload")
        subprocess.run([*self._command(), "reset-failed", self.name], capture_output=True)
        yield f"stopped {self.name} and removed {self.unit_path}"
        folders = [Path(f"/var/lib/{self.name}"), Path(f"/var/cache/{self.name}")]
        left = [
            str(path) for path in (*folders * (not self.of_user), self.secrets) if path.exists()
        ]
        if left:
            yield f"not removed: {', '.join(left)}"

    def status(self, readyz: str | None) -> tuple[int, list[str]]:
        """Return an exit status as that of `systemctl status`, and a few lines about the service.

        Args:
            readyz: address that answers whether it is ready, if there is one.

        Raises:
            SetupError: the unit is not ours.
        """
        if self.installed() is None:
            return NOT_INSTALLED, [f"{self.name} is not installed: there is no {self.unit_path}"]
        if not RUNNING_SYSTEMD.is_dir():
            return NOT_ACTIVE, [f"{self.name} is installed, but systemd does not run here"]
        shown = self._show(
            "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "StatusText",
            "ActiveEnterTimestamp", "UnitFileState",
        )  # fmt: skip
        active = shown["ActiveState"] == "active"
        first = f"{self.name}: {shown['ActiveState']} ({shown['SubState']})"
        if active:
            first += f" since {shown['ActiveEnterTimestamp']}, process {shown['MainPID']}"
        elif shown["Result"] != "success":
            first += f", {shown['Result']}: {self._last_log_line()}"
        lines = [
            first,
            f"  restarted by systemd: {shown['NRestarts']}; {shown['UnitFileState']}",
            f"  settings: {self.settings_path()}",
        ]
        if shown["StatusText"]:
            lines.insert(1, f"  {shown['StatusText']}")
        if readyz is not None and active:
            lines.append(f"  {readyz}: {_ask(readyz)}")
        return 0 if active else NOT_ACTIVE, lines

    # --- systemd ---

    def _require_systemd(self) -> None:
        if not RUNNING_SYSTEMD.is_dir():
            raise SetupError(
                "systemd does not run here; --dry-run prints the unit, and a container image is "
                "described in docs/daemon.md"
            )
        if not self.of_user and os.geteuid() != 0:
            raise SetupError(
                "installing a system service needs root: use sudo, or --user for a user service"
            )

    def _write(self, unit: str) -> None:
        aside = self.unit_path.with_suffix(".new")
        try:
            self.unit_path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(unit, "utf-8")
            aside.chmod(0o644)
            os.replace(aside, self.unit_path)
        except OSError as error:
            raise SetupError(f"{self.unit_path}: cannot be written: {error.strerror}") from None

    def _command(self) -> list[str]:
        return ["systemctl", "--no-pager", *(["--user"] if self.of_user else [])]

    def _systemctl(self, *words: str) -> str:
        found = subprocess.run(
            [*self._command(), *words], capture_output=True, encoding="utf-8", errors="replace"
        )
        if found.returncode:
            said = " ".join((found.stderr or found.stdout).split())
            raise RunError(f"systemctl {' '.join(words)}: {said or found.returncode}")
        return found.stdout

    def _show(self, *properties: str) -> dict[str, str]:
        text = self._systemctl("show", f"--property={','.join(properties)}", self.name)
        pairs = (line.partition("=") for line in text.splitlines())
        return {key: value for key, _, value in pairs}

    def _last_log_line(self) -> str:
        """Return the last line of the program's log, without the lines of systemd."""
        command = ["journalctl", *(["--user"] if self.of_user else []), "--no-pager", "-q"]
        command += ["-o", "cat", "-n", "1", f"SYSLOG_IDENTIFIER={self.name}"]
        found = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        return " ".join(found.stdout.split()) or "it logged nothing"


def _home() -> Path:
    """Return the home directory of the current user.

    Raises:
        SetupError: there is none.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise SetupError(f"user {os.getuid()} has no home directory; set HOME") from None


def files_in(settings: Mapping[str, Any]) -> list[Path]:
    """Return the files that streams and stages of a settings file read."""
    tables = (*settings["streams"].values(), *settings["stages"].values())
    values = (table.get(key) for table in tables for key in ("source", "model"))
    paths = (Path(value) for value in values if isinstance(value, str) and value.startswith("/"))
    return [path for path in paths if path.is_file() or path.is_dir()]


def read_variables(path: Path) -> dict[str, str]:
    """Return the variables of an EnvironmentFile; none if it does not exist.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        path.stat()
        text = read_text(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from None
    except ConfigError as error:
        raise SetupError(f"{path}: cannot be read: {error}") from None
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key[:1] in "#;":
            continue
        value = value.strip()
        if value[:1] in ("'", '"'):
            try:
                value = "".join(shlex.split(value))
            except ValueError:
                raise SetupError(f"{path}: {name_of(key)}: the quote is not closed") from None
        found[key.strip()] = value
    return found


def _ask(address: str) -> str:
    """Return the answer of an address of this machine, on one line."""
    import urllib.error
    import urllib.request

    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            answer = directly.open(address, timeout=3)
        except urllib.error.HTTPError as error:
            answer = error  # 503, with the reason
        with answer:
            text = answer.read(300).decode(errors="replace")
    except OSError as error:
        return f"no answer ({getattr(error, 'reason', error)})"
    return "".join(c if c.isprintable() else " " for c in text).strip()
