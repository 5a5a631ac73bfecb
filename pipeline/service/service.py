"""Eyeline as a service of systemd: its unit file, and how that is installed and removed.

The unit gives the program as little as it can work with: a user of its own that exists only while
it runs, a read-only system, no capability, the devices of cameras and GPUs, and four folders to
write to. Where only its owner may read the checkout, the program runs as that owner instead.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import stat
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
from pipeline.supervisor.lifecycle import EXIT_SETUP
from pipeline.supervisor.processes import CLOSE_S, OPEN_S
from pipeline.text_files import read_text

WATCHDOG_S = 15
"""The supervisor's loop turns ten times a second; silent for so long, it hangs."""
RESTART_S = 0.5
STOP_MARGIN_S = 5
"""For systemd to wait beyond the longest that stopping takes, before it kills."""
DESCRIPTORS = 65536
"""Some tens per stream and process."""
GROUPS = ("video", "render")
"""Of the devices of cameras and GPUs; those that this system has."""
HOMES = ("/home", "/root", "/run/user")
HIDDEN = ("/tmp", "/var/tmp")
"""The service has its own (PrivateTmp)."""
RUNNING_SYSTEMD = Path("/run/systemd/system")

MARK = "# Written by `run.py service install`, and written anew by the next one."

NOT_ACTIVE, NOT_INSTALLED = 3, 4
"""Exit status of `status`, as systemctl has them; 0: it runs."""

UNIT = """\
{mark}
# Settings of your own go beside it: {systemctl} edit {name}

[Unit]
Description=Eyeline, objects in video streams ({name})
Documentation={manual}
{order}RequiresMountsFor={mounts}
# A camera, a broker or a full disk may be away for days: never give up.
StartLimitIntervalSec=0
X-Settings={config}

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec={restart_s}
# It cannot work as asked (a wrong setting, a missing model): that takes a person.
RestartPreventExitStatus={exit_setup}
WatchdogSec={watchdog_s}
# An engine for a GPU may be built at the first start.
TimeoutStartSec={start_s:.0f}
TimeoutStopSec={stop_s:.0f}
KillMode=mixed
# One worker that the kernel kills for its memory is the supervisor's to start again.
OOMPolicy=continue
LimitNOFILE={descriptors}
SyslogIdentifier={name}

# Lines such as YARD_URL=rtsp://user:password@camera/stream; readable by its owner alone.
EnvironmentFile=-{secrets}
# Keeps onnxruntime from reporting to its vendor.
Environment=ORT_DISABLE_TELEMETRY=1
StateDirectory={name}
CacheDirectory={name}
LogsDirectory={name}
RuntimeDirectory={name}
# Where the relative paths of sinks lead.
WorkingDirectory=%S/{name}
UMask=0027

{sandbox}
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy={target}
"""

SANDBOX = """\
{account}
SupplementaryGroups={groups}
Environment=HOME=%S/{name} XDG_CACHE_HOME=%C/{name}
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome={home}
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictSUIDSGID=yes
DevicePolicy=closed
DeviceAllow=char-video4linux rw
DeviceAllow=char-media rw
DeviceAllow=char-drm rw
DeviceAllow=char-accel rw
DeviceAllow=char-nvidia* rw"""
"""What only the system's own manager can grant or take away."""

ORDER = """\
# The module, so that a camera that is plugged in later is allowed too.
Wants=network-online.target modprobe@videodev.service
After=network-online.target modprobe@videodev.service nvidia-persistenced.service
"""


class Account(msgspec.Struct, frozen=True):
    """As whom the service runs."""

    user: str
    """Empty: a user that exists only while it runs (DynamicUser)."""
    home: bool
    """Whether something it reads is in a home folder."""


class Service:
    """One service of systemd, of the system or of one user."""

    def __init__(self, name: str, of_user: bool) -> None:
        """Know where things are; touch nothing.

        Args:
            name: of the unit, without `.service`.
            of_user: whether it belongs to the user who asks, not to the system.

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
        """The command that a person gives for this service."""
        return "systemctl --user" if self.of_user else "systemctl"

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """See variables and relative paths as the service would, to check its settings.

        Raises:
            SetupError: as raised inside, with what to do about it; or the secrets cannot be read.
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
        """As whom the service can read what it needs.

        Args:
            config: the settings file, absolute.
            files: others that it reads.

        Raises:
            SetupError: it could not be read.
        """
        read = [ROOT / "run.py", Path(__file__), Path(sys.executable), Path(os.__file__)]
        read += [Path(str(msgspec.__file__)), config, *files]
        for path in read:
            if not str(path).isprintable():
                raise SetupError(f"{str(path)!r}: a path with such characters fits in no unit file")
        if set(sys.executable) & set("'\"\\"):
            raise SetupError(f"{sys.executable}: systemd starts no program with such a path")
        return Account("", False) if self.of_user else account_for(read)

    def unit(self, config: Path, stop_timeout_s: float, account: Account) -> str:
        """The text of the unit file.

        Args:
            config: the settings file, absolute.
            stop_timeout_s: how long frames in flight may take to drain.
            account: as whom it runs.
        """
        order, sandbox = (
            "",
            "# File systems and devices are the system's to fence off, not a user's.",
        )
        if not self.of_user:
            order = ORDER
            sandbox = SANDBOX.format(
                name=self.name,
                account=f"User={account.user}" if account.user else "DynamicUser=yes",
                groups=" ".join(group for group in GROUPS if _is_group(group)),
                home="read-only" if account.home else "yes",
            )
        # Variables are replaced in the words behind the first.
        words = [_quoted(word).replace("$", "$$") for word in (str(ROOT / "run.py"), str(config))]
        mounts = dict.fromkeys(map(str, (ROOT, sys.prefix, sys.base_prefix, config.parent)))
        return UNIT.format(
            mark=MARK,
            systemctl=self.systemctl,
            name=self.name,
            manual=_plain((ROOT / "docs" / "daemon.md").as_uri()),
            order=order,
            mounts=" ".join(_quoted(path) for path in mounts),
            config=_plain(str(config)),
            command=" ".join((_quoted(sys.executable), words[0], "run", words[1])),
            restart_s=RESTART_S,
            exit_setup=EXIT_SETUP,
            watchdog_s=WATCHDOG_S,
            start_s=OPEN_S + 30,
            stop_s=stop_timeout_s + CLOSE_S + STOP_MARGIN_S,
            descriptors=DESCRIPTORS,
            secrets=_plain(str(self.secrets)),
            sandbox=sandbox,
            target="default.target" if self.of_user else "multi-user.target",
        )

    def installed(self) -> str | None:
        """The text of the unit that is installed, if there is one.

        Raises:
            SetupError: a unit of this name is there, but is not ours.
        """
        try:
            text = self.unit_path.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SetupError(f"{self.unit_path}: cannot be read: {error.strerror}") from None
        if not text.startswith(MARK):
            raise SetupError(
                f"{self.unit_path}: is there, and was not written by Eyeline: left as it is; "
                "choose another --name"
            )
        return text

    def settings_path(self) -> Path | None:
        """The settings file of the installed unit."""
        match = re.search(r"^X-Settings=(.+)$", self.installed() or "", re.MULTILINE)
        return Path(match[1].replace("%%", "%")) if match else None

    # --- what a person asks for ---

    def install(self, unit: str) -> Iterator[str]:
        """Write the unit, enable and start it; each thing done, in words, as it is done.

        Raises:
            SetupError: may not, or there is no systemd.
            RunError: systemd refuses it, or it does not start.
        """
        before = self.installed()
        self._require_systemd()
        changed = before != unit
        if changed:
            self._write(unit)
            yield f"{'wrote' if before is None else 'renewed'} {self.unit_path}"
            self._systemctl("daemon-reload")
        else:
            yield f"{self.unit_path} is as it should be"
        self._systemctl("enable", "--quiet", self.name)
        if self.secrets.exists() and self.secrets.stat().st_mode & 0o077:
            yield f"{self.secrets}: others may read the secrets in it: chmod 600 {self.secrets}"
        active = self._show("ActiveState").get("ActiveState") == "active"
        verb = "restart" if changed or not active else "reload"
        try:
            self._systemctl(verb, self.name)
        except RunError:
            raise RunError(
                f"{self.name} is installed but did not {'re' * (verb == 'reload')}start: "
                f"{self._last_words()}; see journalctl{' --user' * self.of_user} -u {self.name}"
            ) from None
        if verb == "reload":
            yield f"{self.name} runs, and reads its settings again"
        else:
            yield f"{self.name} runs, and starts with the {'session' * self.of_user or 'machine'}"
        yield f"its log: journalctl{' --user' * self.of_user} -u {self.name} -f"
        if self.of_user:
            yield f"to run it without a session: loginctl enable-linger {_user_name(os.getuid())}"

    def uninstall(self) -> Iterator[str]:
        """Stop, disable and remove the service; each thing done, in words, as it is done.

        Raises:
            SetupError: may not, or there is no systemd, or the unit is not ours.
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
            yield f"left as they are: {', '.join(left)}"

    def status(self, readyz: str | None) -> tuple[int, list[str]]:
        """How the service is doing: exit status as of `systemctl status`, and a few lines.

        Args:
            readyz: address that answers whether it is ready, if there is one.

        Raises:
            SetupError: there is no systemd, or the unit is not ours.
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
            first += f", {shown['Result']}: {self._last_words()}"
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
            raise SetupError("a service of the system takes root: sudo, or --user for one of yours")

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

    def _last_words(self) -> str:
        """What the program said last, without what systemd said about it."""
        command = ["journalctl", *(["--user"] if self.of_user else []), "--no-pager", "-q"]
        command += ["-o", "cat", "-n", "1", f"SYSLOG_IDENTIFIER={self.name}"]
        found = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        return " ".join(found.stdout.split()) or "it said nothing"


def account_for(paths: Sequence[Path]) -> Account:
    """As whom a service can read these files: a user of its own, or their owner.

    Raises:
        SetupError: neither can.
    """
    for path in paths:
        if any(_is_below(path, folder) for folder in HIDDEN):
            raise SetupError(
                f"{path}: the service does not see /tmp; put it elsewhere, in /opt or /etc say"
            )
    home = any(_is_below(path, folder) for path in paths for folder in HOMES)
    barred = _barred(paths, -1, frozenset())
    if barred is None:
        return Account("", home)
    owner = (ROOT / "run.py").stat().st_uid
    if owner:
        user = _user_of(owner)
        groups = frozenset(os.getgrouplist(user.pw_name, user.pw_gid)) if user else frozenset()
        barred = _barred(paths, owner, groups) if user else barred
        if user is not None and barred is None:
            return Account(user.pw_name, home)
    reader = "a service" if not owner else f"neither a user of its own nor {_user_name(owner)}"
    raise SetupError(
        f"{barred}: {reader} may {'not ' * (not owner)}read it; install Eyeline where others may "
        f"read it (/opt/eyeline), or allow it: chmod o+rX {barred}"
    )


def _barred(paths: Sequence[Path], uid: int, gids: frozenset[int]) -> Path | None:
    """The first file, or folder on the way to one, that a user may not read or pass."""
    for path in paths:
        # By both ways: a link in one folder may lead to a file in another.
        for way in dict.fromkeys((Path(os.path.abspath(path)), Path(os.path.realpath(path)))):
            for part in (*reversed(way.parents), way):
                if not _may(part, uid, gids, stat.S_IXOTH if part != way else stat.S_IROTH):
                    return part
    return None


def _may(path: Path, uid: int, gids: frozenset[int], bit: int) -> bool:
    try:
        held = path.stat()
    except OSError:
        return False
    shift = 6 if held.st_uid == uid else 3 if held.st_gid in gids else 0
    return bool(held.st_mode & (bit << shift))


def _is_below(path: Path, folder: str) -> bool:
    return any(Path(way).is_relative_to(folder) for way in (path, os.path.realpath(path)))


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _user_name(uid: int) -> str:
    user = _user_of(uid)
    return str(uid) if user is None else user.pw_name


def _user_of(uid: int) -> pwd.struct_passwd | None:
    """The account of a user id, if it has one."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _home() -> Path:
    """The home directory of the user who asks.

    Raises:
        SetupError: there is none.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise SetupError(f"user {os.getuid()} has no home directory; set HOME") from None


def files_in(settings: Mapping[str, Any]) -> list[Path]:
    """The files that a settings file, as read, has its streams and stages read."""
    tables = (*settings["streams"].values(), *settings["stages"].values())
    values = (table.get(key) for table in tables for key in ("source", "model"))
    paths = (Path(value) for value in values if isinstance(value, str) and value.startswith("/"))
    return [path for path in paths if path.is_file() or path.is_dir()]


def read_variables(path: Path) -> dict[str, str]:
    """The variables of an EnvironmentFile; none if there is no such file.

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


def _plain(text: str) -> str:
    """A text for a line of a unit that is taken as it is."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """A word of a line of a unit that is split into words."""
    if re.fullmatch(r"[\w/.+@:-]+", text, re.ASCII):
        return text
    return '"' + _plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _ask(address: str) -> str:
    """What an address of this machine answers, on one line."""
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
