"""The service under a real systemd: this system's own files, booted once more in a container.

What the container writes goes to memory, so the system that runs the tests stays as it is. The
checkout is seen there as /opt/eyeline, and there is no network but loopback.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.runs import ROOT, children, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.soak]

NEEDED = ("systemd-nspawn", "nsenter", "unshare", "runuser", "curl", "/lib/systemd/systemd")
PROBLEM = (
    "takes root"
    if os.geteuid() != 0
    else next((f"takes {tool}" for tool in NEEDED if shutil.which(tool) is None), "")
)
if PROBLEM:
    pytest.skip(PROBLEM, allow_module_level=True)

CHECKOUT = Path("/opt/eyeline")
"""In the container."""
CONFIG = """\
streams:
  demo: {source: "${EYELINE}/tests/clips/demo.mp4", mode: live, loop: true}
stages:
  capture:    {use: capture}
  preprocess: {use: preprocess}
  detector:   {use: detector, model: ssdlite_mobilenet_v2}
  nms:        {use: nms, min_score: 0.4}
  tracker:    {use: tracker}
  events:     {use: events, after: tracker, path: events.jsonl}
"""
SECRET = "s3cret-of-the-yard"


class Machine:
    """A container with systemd in it."""

    def __init__(self, folder: Path) -> None:
        root, self._console = folder / "root", folder / "console.txt"
        root.mkdir()
        script = 'mount --bind / "$1" && shift && exec systemd-nspawn "$@"'
        options = [
            f"--directory={root}",
            f"--machine=eyeline-test-{os.getpid()}",
            f"--overlay={ROOT}::{CHECKOUT}",
            "--volatile=overlay",
            "--private-network",
            "--register=no",
            "--keep-unit",
            "--quiet",
            "--boot",
            "--",
            "--unit=basic.target",
        ]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, "sh", root, *options],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self._init = 0
        try:
            wait_until(self._is_up)
        except BaseException:
            self.power_off()
            raise
        prefix = Path(sys.prefix)
        if prefix.is_relative_to(ROOT):
            prefix = CHECKOUT / prefix.relative_to(ROOT)
        self.python = str(prefix / "bin" / "python")
        for path in (CHECKOUT, Path(sys.base_prefix)):
            # As on a machine where Python and Eyeline were installed for everybody.
            self.run("chmod", "o+x", *map(str, [*path.parents, path]))

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            text = self._console.read_text(errors="replace")
            if "Operation not permitted" in text or "ermission denied" in text:
                pytest.skip(f"this machine lets no container start: {text}")
            pytest.fail(f"the container did not start: {text}")
        for pid in children(self._process.pid):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # one of those that prepare the container
            if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE):
                self._init = pid
        if not self._init:
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def power_off(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self, *words, check=True, **options):
        """Run a command in the container."""
        found = subprocess.run(
            ["nsenter", f"--target={self._init}", "--all", *words],
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )
        assert found.returncode == 0 or not check, f"{words}: {found.stdout}{found.stderr}"
        return found

    def write(self, path, text, mode="644"):
        self.run("install", "-D", f"--mode={mode}", "/dev/stdin", str(path), input=text)

    def service(self, *words, check=True):
        """`run.py service ...`."""
        return self.run(self.python, str(CHECKOUT / "run.py"), "service", *words, check=check)

    def show(self, *properties, name="eyeline"):
        text = self.run("systemctl", "show", f"--property={','.join(properties)}", name).stdout
        return dict(line.split("=", 1) for line in text.splitlines())

    def one(self, what):
        return self.show(what)[what]

    def workers(self):
        """Stage -> process id of its worker."""
        found = {}
        for line in self.processes():
            pid, _, title = line.strip().partition(" eyeline:")
            if title and not title.startswith("supervisor"):
                found |= dict.fromkeys(re.split(r"[.+]", title), int(pid))
        return found

    def processes(self):
        text = self.run("ps", "-eo", "pid,args").stdout
        return [line for line in text.splitlines() if "eyeline:" in line or "run.py" in line]

    def events(self, folder="/var/lib/eyeline"):
        found = self.run("cat", f"{folder}/events.jsonl", check=False).stdout
        return [json.loads(line) for line in found.splitlines()]

    def journal(self, **fields):
        """Messages of the program, not those of systemd about it."""
        match = [f"{key}={value}" for key, value in fields.items()]
        text = self.run("journalctl", "-o", "json", "-t", "eyeline", *match, check=False).stdout
        return [json.loads(line) for line in text.splitlines()]

    def said(self, text):
        return any(text in entry["MESSAGE"] for entry in self.journal())


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    made = Machine(tmp_path_factory.mktemp("machine"))
    yield made
    made.power_off()


@pytest.fixture
def installed(machine):
    """The service, running, with the settings above."""
    machine.write("/etc/eyeline/config.yaml", CONFIG)
    machine.service("install", "/etc/eyeline/config.yaml")
    machine.run("systemctl", "reset-failed", "eyeline")
    yield machine
    machine.service("uninstall")


def test_install_starts_it_and_says_what_it_did(machine):
    machine.write("/etc/eyeline/config.yaml", CONFIG)
    before = machine.run("find", "/etc/systemd").stdout
    first = machine.service("install", "/etc/eyeline/config.yaml").stdout.splitlines()
    assert first[:2] == [
        "wrote /etc/systemd/system/eyeline.service",
        "eyeline runs, and starts with the machine",
    ]
    shown = machine.show("ActiveState", "UnitFileState", "Type", "NotifyAccess", "StatusText")
    assert shown == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "Type": "notify",
        "NotifyAccess": "main",
        "StatusText": "1 live",
    }
    pid = machine.one("MainPID")
    again = machine.service("install", "/etc/eyeline/config.yaml").stdout.splitlines()
    assert again[0] == "/etc/systemd/system/eyeline.service is up to date"
    assert machine.one("MainPID") == pid
    status = machine.service("status").stdout
    assert status.startswith("eyeline: active (running) since ")
    assert "settings: /etc/eyeline/config.yaml" in status
    gone = machine.service("uninstall").stdout.splitlines()
    assert gone[0] == "stopped eyeline and removed /etc/systemd/system/eyeline.service"
    assert machine.run("find", "/etc/systemd").stdout == before
    assert machine.processes() == []
    assert "is not installed" in machine.service("uninstall").stdout
    assert machine.service("status", check=False).returncode == 4


def test_it_runs_as_a_user_of_its_own_and_writes_only_its_folders(installed):
    pid = installed.one("MainPID")
    owner = installed.run("ps", "-o", "user:20=", "-p", pid).stdout.strip()
    assert owner == "eyeline"
    assert "eyeline" not in installed.run("cat", "/etc/passwd").stdout
    status = installed.run("cat", f"/proc/{pid}/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {int(facts[key], 16) for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    wait_until(lambda: len(installed.events()) > 5)
    root = f"/proc/{pid}/root"
    mounts = installed.run("cat", f"/proc/{pid}/mounts").stdout.splitlines()
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
    assert "ro" in options["/"]
    assert "rw" in options["/var/lib/private/eyeline"]
    assert installed.run("ls", f"{root}/tmp").stdout == ""


def test_a_killed_worker_is_no_affair_of_systemds(installed):
    pid = installed.one("MainPID")
    wait_until(lambda: len(installed.events()) > 5)
    for stage in ("tracker", "detector", "capture"):
        victim = installed.workers()[stage]
        installed.run("kill", "-KILL", str(victim))
        wait_until(lambda s=stage, v=victim: installed.workers().get(s) not in (None, v))
        count = len(installed.events())
        wait_until(lambda n=count: len(installed.events()) > n)
    assert installed.show("MainPID", "NRestarts", "ActiveState") == {
        "MainPID": pid,
        "NRestarts": "0",
        "ActiveState": "active",
    }
    assert installed.journal(PRIORITY=4), "the restarts are logged as warnings"


def test_a_killed_supervisor_is_started_again(installed):
    pid = installed.one("MainPID")
    wait_until(lambda: len(installed.events()) > 5)
    workers = set(installed.workers().values())
    installed.run("kill", "-KILL", pid)
    started_again = {"NRestarts": "1", "ActiveState": "active"}
    wait_until(lambda: installed.show("NRestarts", "ActiveState") == started_again)
    assert installed.one("MainPID") not in (pid, "0")
    assert not workers & set(installed.workers().values())
    count = len(installed.events())
    wait_until(lambda: len(installed.events()) > count)


def test_a_supervisor_that_hangs_is_found_by_the_watchdog(installed):
    drop_in = "/etc/systemd/system/eyeline.service.d/override.conf"
    installed.write(drop_in, "[Service]\nWatchdogSec=2\n")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "restart", "eyeline")
    pid = installed.one("MainPID")
    assert installed.one("WatchdogUSec") == "2s"
    beat = int(installed.one("WatchdogTimestampMonotonic"))
    # It is well: signs of life go on for longer than the watchdog waits.
    wait_until(lambda: int(installed.one("WatchdogTimestampMonotonic")) > beat + 3_000_000)
    assert installed.show("MainPID", "NRestarts") == {"MainPID": pid, "NRestarts": "0"}
    installed.run("kill", "-STOP", pid)
    started_again = {"NRestarts": "1", "ActiveState": "active"}
    wait_until(lambda: installed.show("NRestarts", "ActiveState") == started_again)
    assert installed.one("MainPID") not in (pid, "0")
    about = installed.run("journalctl", "-o", "cat", "-u", "eyeline").stdout
    assert "Watchdog timeout" in about
    installed.run("rm", "-r", str(Path(drop_in).parent))


def test_settings_are_read_again_and_bad_ones_refused(installed):
    pid = installed.one("MainPID")
    installed.write("/etc/eyeline/config.yaml", CONFIG.replace("0.4", "0.9"))
    installed.run("systemctl", "reload", "eyeline")
    wait_until(lambda: installed.said("stage nms changed"))
    wait_until(lambda: installed.one("ActiveState") == "active")
    installed.write("/etc/eyeline/config.yaml", CONFIG.replace("min_score", "min_scope"))
    installed.run("systemctl", "reload", "eyeline")
    wait_until(lambda: installed.said("did you mean 'min_score'?"))
    wait_until(lambda: installed.one("ActiveState") == "active")
    count = len(installed.events())
    wait_until(lambda: len(installed.events()) > count)
    assert installed.show("MainPID", "NRestarts") == {"MainPID": pid, "NRestarts": "0"}


def test_settings_with_another_graph_are_taken_up_without_systemd(installed):
    pid = installed.one("MainPID")
    more = CONFIG + "  mot:        {use: mot, after: tracker, path: objects.txt}\n"
    installed.write("/etc/eyeline/config.yaml", more)
    installed.run("systemctl", "reload", "eyeline")
    written = "/var/lib/eyeline/objects.txt"
    wait_until(lambda: installed.run("test", "-s", written, check=False).returncode == 0)
    wait_until(lambda: installed.one("ActiveState") != "reloading")
    assert installed.show("ActiveState", "SubState", "MainPID", "NRestarts") == {
        "ActiveState": "active",
        "SubState": "running",
        "MainPID": pid,
        "NRestarts": "0",
    }


def test_it_stops_clean(installed):
    wait_until(lambda: len(installed.events()) > 5)
    installed.run("systemctl", "stop", "eyeline")
    assert installed.show("ActiveState", "Result", "ExecMainCode", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainCode": "1",  # it ended by itself
        "ExecMainStatus": "0",
    }
    assert installed.processes() == []
    assert installed.said("demo: ")
    about = installed.run("journalctl", "-o", "cat", "-u", "eyeline", "-n", "20").stdout
    assert "timed out" not in about


def test_what_cannot_work_is_not_started_over_and_over(installed):
    installed.write("/etc/eyeline/config.yaml", CONFIG.replace("demo.mp4", "missing.mp4"))
    assert installed.run("systemctl", "restart", "eyeline", check=False).returncode == 1
    assert installed.show("ActiveState", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed",
        "ExecMainStatus": "2",
        "NRestarts": "0",
    }
    found = installed.service("status", check=False)
    assert found.returncode == 3
    assert "missing.mp4" in found.stdout


def test_install_reports_what_only_the_sandbox_forbids(machine):
    machine.write("/etc/eyeline/config.yaml", CONFIG.replace("events.jsonl", "/srv/events.jsonl"))
    found = machine.service("install", "/etc/eyeline/config.yaml", check=False)
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert "did not start" in found.stderr
    assert "cannot write '/srv/events.jsonl' (Read-only file system)" in found.stderr
    assert machine.one("NRestarts") == "0"
    machine.service("uninstall")


def test_a_bad_setting_is_refused_before_anything_is_written(machine):
    machine.write("/etc/eyeline/bad.yaml", CONFIG.replace("min_score", "min_scope"))
    before = machine.run("find", "/etc/systemd").stdout
    found = machine.service("install", "/etc/eyeline/bad.yaml", check=False)
    assert found.returncode == 2
    assert "did you mean 'min_score'?" in found.stderr
    assert found.stderr.count("\n") == 1
    assert machine.run("find", "/etc/systemd").stdout == before


def test_settings_that_the_service_may_not_read_are_refused(machine):
    machine.write("/etc/eyeline/private/config.yaml", CONFIG)
    machine.run("chmod", "700", "/etc/eyeline/private")
    found = machine.service("install", "/etc/eyeline/private/config.yaml", check=False)
    assert found.returncode == 2
    assert "/etc/eyeline/private: " in found.stderr
    assert machine.service("status", check=False).returncode == 4


def test_the_shipped_settings_wait_for_the_camera_and_show_no_password(machine):
    found = machine.service("install", "--name", "yard", check=False)
    assert found.returncode == 2
    assert "YARD_URL" in found.stderr
    assert "/etc/eyeline/yard.env" in found.stderr
    address = f"rtsp://admin:{SECRET}@127.0.0.1:9/stream"
    machine.write("/etc/eyeline/yard.env", f"YARD_URL='{address}'\n", mode="644")
    said = machine.service("install", "--name", "yard").stdout
    assert "chmod 600 /etc/eyeline/yard.env" in said
    machine.run("chmod", "600", "/etc/eyeline/yard.env")
    machine.run("systemctl", "restart", "yard")
    shown = machine.show("ActiveState", "StatusText", name="yard")
    assert shown == {"ActiveState": "active", "StatusText": "1 waiting"}
    status = machine.service("status", "--name", "yard").stdout
    assert "http://127.0.0.1:8080/readyz: ready" in status
    log = machine.run("journalctl", "-o", "cat", "-u", "yard").stdout
    assert "event=stream stream=yard state=waiting kind=refused" in log
    said += status + log
    said += machine.run("systemctl", "status", "yard").stdout
    said += machine.run("cat", "/etc/systemd/system/yard.service").stdout
    for path in ("api/status", "metrics"):
        said += machine.run("curl", "-sf", f"http://127.0.0.1:8080/{path}").stdout
    assert SECRET not in said
    machine.service("uninstall", "--name", "yard")
    assert SECRET in machine.run("cat", "/etc/eyeline/yard.env").stdout, "it was not ours to remove"


def test_where_only_the_owner_may_read_it_runs_as_the_owner(machine):
    machine.run("useradd", "--create-home", "pi")
    program = str(CHECKOUT / "run.py")
    machine.run("chown", "pi", program)
    machine.run("chmod", "600", program)
    try:
        machine.write("/home/pi/config.yaml", CONFIG)
        machine.service("install", "/home/pi/config.yaml")
        pid = machine.one("MainPID")
        assert machine.run("ps", "-o", "user=", "-p", pid).stdout.strip() == "pi"
        wait_until(lambda: len(machine.events()) > 5)
        machine.service("uninstall")
    finally:
        machine.run("chown", "root", program)
        machine.run("chmod", "644", program)


def test_odd_paths_reach_the_program(machine):
    odd = '/srv/my 100% "cameras" $HOME/co\\nfig.yaml'
    machine.write(odd, CONFIG)
    machine.service("install", odd)
    assert machine.one("ActiveState") == "active"
    assert odd in machine.service("status").stdout
    machine.service("uninstall")


def test_a_user_has_a_service_without_root(machine):
    machine.run("useradd", "--create-home", "lena")
    uid = machine.run("id", "-u", "lena").stdout.strip()
    machine.run("systemctl", "start", f"user@{uid}.service")
    machine.write("/home/lena/config.yaml", CONFIG)
    as_lena = ["runuser", "-u", "lena", "--", "env", "HOME=/home/lena"]
    as_lena += [f"XDG_RUNTIME_DIR=/run/user/{uid}", machine.python, str(CHECKOUT / "run.py")]
    said = machine.run(*as_lena, "service", "install", "--user", "/home/lena/config.yaml").stdout
    assert "loginctl enable-linger lena" in said
    unit = "/home/lena/.config/systemd/user/eyeline.service"
    assert unit in said
    status = machine.run(*as_lena, "service", "status", "--user").stdout
    assert status.startswith("eyeline: active (running)")
    machine.run(*as_lena, "service", "uninstall", "--user")
    assert machine.run("test", "-e", unit, check=False).returncode == 1
    assert machine.processes() == []


def test_a_unit_that_is_not_ours_is_left_alone(machine):
    text = "[Service]\nExecStart=/bin/true\n"
    machine.write("/etc/systemd/system/other.service", text)
    machine.write("/etc/eyeline/config.yaml", CONFIG)
    for words in (("install", "/etc/eyeline/config.yaml"), ("uninstall",), ("status",)):
        found = machine.service(*words, "--name", "other", check=False)
        assert found.returncode == 2
        assert "was not written by Eyeline" in found.stderr
    assert machine.run("cat", "/etc/systemd/system/other.service").stdout == text


def test_signals_to_a_worker_do_not_end_the_service(installed):
    """SIGTERM to one worker, as an operator may send by mistake."""
    pid = installed.one("MainPID")
    victim = installed.workers()["tracker"]
    installed.run("kill", f"-{signal.SIGTERM.name.removeprefix('SIG')}", str(victim))
    wait_until(lambda: installed.workers().get("tracker") not in (None, victim))
    assert installed.show("MainPID", "NRestarts") == {"MainPID": pid, "NRestarts": "0"}
