"""The unit file of the service, from the templates `eyeline.service` and `sandbox.service`."""

from __future__ import annotations

import grp
import re
import sys
from pathlib import Path
from string import Template

from pipeline.config import ROOT
from pipeline.service.accounts import Account
from pipeline.supervisor.lifecycle import EXIT_SETUP
from pipeline.supervisor.processes import CLOSE_S, OPEN_S

FOLDER = Path(__file__).parent
AUTHOR = "# Written by `run.py service install`"
"""First words of every unit of ours."""
WATCHDOG_S = 15
"""Watchdog timeout; the supervisor sends a sign of life ten times a second."""
RESTART_S = 0.5
STOP_MARGIN_S = 5
"""Time that systemd waits beyond the longest stop of the program before it kills it."""
MAX_DESCRIPTORS = 65536
"""Limit of open files: some tens per stream and process."""
GROUPS = ("video", "render")
"""Groups of the devices of cameras and GPUs; the service joins those that exist."""

ORDER = """\
# The module, so that a camera that is plugged in later is allowed too.
Wants=network-online.target modprobe@videodev.service
After=network-online.target modprobe@videodev.service nvidia-persistenced.service
"""


def unit_text(
    name: str,
    of_user: bool,
    config: Path,
    secrets: Path,
    stop_timeout_s: float,
    account: Account,
) -> str:
    """Return the text of a unit file.

    Args:
        name: name of the unit, without `.service`.
        of_user: whether it belongs to a user, not to the system.
        config: the settings file, absolute.
        secrets: file with environment variables.
        stop_timeout_s: time for frames in flight to drain.
        account: user that runs it.
    """
    order, sandbox = "", "# Only the system can restrict file systems and devices, not a user."
    if not of_user:
        order = ORDER
        sandbox = Template((FOLDER / "sandbox.service").read_text("utf-8")).substitute(
            name=name,
            account=f"User={account.user}" if account.user else "DynamicUser=yes",
            groups=" ".join(group for group in GROUPS if _is_group(group)),
            home="read-only" if account.home else "yes",
        )
    # In the words behind the first, systemd replaces variables.
    words = [_quoted(word).replace("$", "$$") for word in (str(ROOT / "run.py"), str(config))]
    mounts = dict.fromkeys(map(str, (ROOT, sys.prefix, sys.base_prefix, config.parent)))
    return Template((FOLDER / "eyeline.service").read_text("utf-8")).substitute(
        mark=f"{AUTHOR}, which replaces it when it is run again.",
        systemctl="systemctl --user" if of_user else "systemctl",
        name=name,
        manual=_plain((ROOT / "docs" / "daemon.md").as_uri()),
        order=order,
        mounts=" ".join(_quoted(path) for path in mounts),
        config=_plain(str(config)),
        command=" ".join((_quoted(sys.executable), words[0], "run", words[1])),
        restart_s=RESTART_S,
        exit_setup=EXIT_SETUP,
        watchdog_s=WATCHDOG_S,
        start_s=round(OPEN_S + 30),
        stop_s=round(stop_timeout_s + CLOSE_S + STOP_MARGIN_S),
        descriptors=MAX_DESCRIPTORS,
        secrets=_plain(str(secrets)),
        sandbox=sandbox.rstrip(),
        target="default.target" if of_user else "multi-user.target",
    )


def settings_in(unit: str) -> Path | None:
    """Return the settings file of a unit."""
    match = re.search(r"^X-Settings=(.+)$", unit, re.MULTILINE)
    return Path(match[1].replace("%%", "%")) if match else None


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _plain(text: str) -> str:
    """Return a text for a line of a unit that is one value."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Return a word for a line of a unit that is split into words."""
    if re.fullmatch(r"[\w/.+@:-]+", text, re.ASCII):
        return text
    return '"' + _plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
