"""The unit file and the account of the service; tests/processes/test_service.py installs it."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
from pathlib import Path

import pytest
import yaml

import run
from pipeline.errors import SetupError
from pipeline.service import accounts
from pipeline.service import service as services
from pipeline.service import unit as unit_file
from pipeline.service.accounts import Account, account_for
from pipeline.service.service import Service, files_in, read_variables
from pipeline.service.unit import AUTHOR
from pipeline.supervisor.processes import CLOSE_S, OPEN_S
from tests.builders import ROOT

ANALYZE = shutil.which("systemd-analyze")
CONFIG = ROOT / "configs" / "demo.yaml"
DYNAMIC = Account("", False)


def unit_of(name="eyeline", of_user=False, config=CONFIG, stop_timeout_s=10.0, account=DYNAMIC):
    return Service(name, of_user).unit(config, stop_timeout_s, account)


def values(unit, key):
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


# --- the unit ---


def analyze(folder, unit, *words, of_user=False):
    (folder / "eyeline.service").write_text(unit)
    command = [ANALYZE, *(["--user"] if of_user else []), *words, str(folder / "eyeline.service")]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze: apt install systemd")
@pytest.mark.parametrize(
    ("of_user", "account"),
    [(False, DYNAMIC), (False, Account("daemon", True)), (True, DYNAMIC)],
    ids=["dynamic", "owner", "user"],
)
def test_systemd_accepts_the_unit_without_a_warning(of_user, account, tmp_path):
    found = analyze(tmp_path, unit_of(of_user=of_user, account=account), "verify", of_user=of_user)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze: apt install systemd")
def test_a_wrong_key_in_the_unit_is_reported_by_systemd(tmp_path):
    """A key that systemd does not know is but a warning to it."""
    unit = unit_of().replace("LockPersonality", "LockPersonalty")
    assert "LockPersonalty" in analyze(tmp_path, unit, "verify").stderr


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze: apt install systemd")
@pytest.mark.parametrize("account", [DYNAMIC, Account("daemon", True)], ids=["dynamic", "owner"])
def test_the_exposure_of_the_unit_is_low(account, tmp_path):
    """systemd's own measure, from 0 to 10; an unprotected service has 9.6."""
    found = analyze(
        tmp_path, unit_of(account=account), "security", "--offline=true", "--threshold=20"
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze: apt install systemd")
def test_odd_paths_are_read_by_systemd_as_they_are(tmp_path, monkeypatch):
    python = tmp_path / "my 100% $envs ü" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    found = analyze(tmp_path, unit_of(config=tmp_path / "a %H $HOME 'b'.yaml"), "verify")
    assert (found.returncode, found.stderr) == (0, "")
    python.unlink()
    gone = analyze(tmp_path, unit_of(), "verify")
    assert str(python) in gone.stderr, "it looked for this very file"


def test_systemd_waits_longer_than_stopping_may_take():
    (stop_s,) = values(unit_of(stop_timeout_s=42.5), "TimeoutStopSec")
    assert float(stop_s) > 42.5 + CLOSE_S
    (start_s,) = values(unit_of(), "TimeoutStartSec")
    assert float(start_s) > OPEN_S


def test_commands_are_absolute_and_the_settings_file_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    service = Service("yard", of_user=True)
    config = tmp_path / "a 100% b.yaml"
    unit = service.unit(config, 5.0, DYNAMIC)
    (command,) = values(unit, "ExecStart")
    assert command.startswith(f"{sys.executable} {ROOT / 'run.py'} run ")
    service.unit_path.parent.mkdir(parents=True)
    service.unit_path.write_text(unit)
    assert service.settings_path() == config


def test_groups_that_do_not_exist_are_left_out(monkeypatch):
    """A unit with a group that is not there does not start."""
    monkeypatch.setattr(unit_file, "GROUPS", ("root", "no-such-group", "daemon"))
    assert values(unit_of(), "SupplementaryGroups") == ["root daemon"]


def test_a_home_folder_can_be_read_only_if_a_file_in_it_is_needed():
    assert values(unit_of(account=Account("", False)), "ProtectHome") == ["yes"]
    assert values(unit_of(account=Account("pi", True)), "ProtectHome") == ["read-only"]
    assert values(unit_of(account=Account("pi", True)), "User") == ["pi"]
    assert values(unit_of(account=Account("pi", True)), "DynamicUser") == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "1st", "x.service", "a%i", "x\n"])
def test_an_invalid_name_is_refused(name):
    with pytest.raises(SetupError, match="--name"):
        Service(name, of_user=False)


# --- as whom ---


@pytest.fixture
def folder(monkeypatch):
    """A folder that everybody may pass; those of pytest are for its user alone."""
    monkeypatch.setattr(accounts, "HIDDEN", ())
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        os.chmod(made, 0o755)
        yield Path(made)


def file_in(folder, mode, *, above=0o755):
    folder = folder / "place"
    folder.mkdir()
    file = folder / "file"
    file.write_text("")
    file.chmod(mode)
    folder.chmod(above)
    return file


def test_files_that_all_can_read_need_no_user(folder):
    assert account_for([file_in(folder, 0o644), Path("/usr/bin/env")]) == DYNAMIC


def owned_by_daemon(monkeypatch, folder):
    """A checkout that the user daemon owns."""
    daemon = pwd.getpwnam("daemon")
    program = folder / "run.py"
    program.write_text("")
    os.chown(program, daemon.pw_uid, daemon.pw_gid)
    monkeypatch.setattr(accounts, "ROOT", folder)
    return daemon


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
@pytest.mark.parametrize(("mode", "above"), [(0o600, 0o755), (0o644, 0o700), (0o440, 0o750)])
def test_files_that_only_the_owner_can_read_make_the_owner_the_user(
    mode, above, folder, monkeypatch
):
    daemon = owned_by_daemon(monkeypatch, folder)
    file = file_in(folder, mode, above=above)
    for path in (file, file.parent):
        os.chown(path, daemon.pw_uid, daemon.pw_gid)
    assert account_for([file]) == Account("daemon", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_a_group_of_the_owner_is_enough(folder, monkeypatch):
    daemon = owned_by_daemon(monkeypatch, folder)
    file = file_in(folder, 0o640)
    os.chown(file, 0, daemon.pw_gid)
    assert account_for([file]) == Account("daemon", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_files_that_the_owner_cannot_read_are_refused(folder, monkeypatch):
    owned_by_daemon(monkeypatch, folder)
    file = file_in(folder, 0o644, above=0o700)
    with pytest.raises(SetupError, match=f"{file.parent}: neither a user of its own nor daemon"):
        account_for([file])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own the checkout")
def test_a_checkout_that_only_root_can_read_is_refused_with_advice(folder, monkeypatch):
    (folder / "run.py").write_text("")
    monkeypatch.setattr(accounts, "ROOT", folder)
    file = file_in(folder, 0o600)
    with pytest.raises(SetupError, match=rf"{file}: a service cannot read it; .*/opt/eyeline"):
        account_for([file])


def test_a_link_is_followed_and_both_paths_must_be_readable(folder):
    file = file_in(folder, 0o644, above=0o700)
    link = folder / "link"
    link.symlink_to(file)
    assert accounts._barred([link], -1, frozenset()) == file.parent
    file.parent.chmod(0o755)
    assert accounts._barred([link], -1, frozenset()) is None


def test_files_in_tmp_are_refused(tmp_path):
    with pytest.raises(SetupError, match="does not see /tmp"):
        account_for([Path("/tmp/config.yaml")])


def test_a_path_that_does_not_fit_on_a_line_is_refused(tmp_path):
    with pytest.raises(SetupError, match="unit file"):
        Service("x", of_user=True).account(tmp_path / "a\nExecStartPre=evil")


def test_a_python_that_systemd_cannot_start_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", '/opt/the "one"/python')
    with pytest.raises(SetupError, match="systemd cannot start a program with quotes in its path"):
        Service("x", of_user=True).account(tmp_path / "config.yaml")


def test_files_that_the_settings_name_are_found(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_text("")
    settings = {
        "streams": {"a": {"source": str(clip)}, "b": {"source": 0}, "c": {"source": "rtsp://x"}},
        "stages": {"d": {"use": "detector", "model": str(tmp_path)}, "e": {"path": "/etc/passwd"}},
    }
    assert files_in(settings) == [clip, tmp_path]


# --- what it sees ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nB=two words \n", {"A": "1", "B": "two words"}),
        ("# A=1\n; B=2\n\nnot a line\n", {}),
        ("A='rtsp://u:p@h/1'\nB=\"x y\"\n", {"A": "rtsp://u:p@h/1", "B": "x y"}),
        ("A=rtsp://h/?a=b&c=d#e\n", {"A": "rtsp://h/?a=b&c=d#e"}),
        ("  A = 1\n", {"A": "1"}),
    ],
)
def test_variables_are_read_as_systemd_reads_them(text, expected, tmp_path):
    file = tmp_path / "x.env"
    file.write_text(text)
    assert read_variables(file) == expected


def test_variables_need_no_file_but_a_quote_needs_its_end(tmp_path):
    assert read_variables(tmp_path / "none.env") == {}
    (tmp_path / "x.env").write_text("A='secret\n")
    with pytest.raises(SetupError, match=r"x\.env: A: the quote is not closed") as error:
        read_variables(tmp_path / "x.env")
    assert "secret" not in str(error.value)


def test_settings_are_checked_in_the_environment_of_the_service(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("OF_THE_SHELL", "1")
    before, folder = dict(os.environ), os.getcwd()
    service = Service("yard", of_user=True)
    service.secrets.parent.mkdir(parents=True)
    service.secrets.write_text("YARD_URL=rtsp://x\n")
    with service.surroundings():
        assert "OF_THE_SHELL" not in os.environ
        assert os.environ["YARD_URL"] == "rtsp://x"
        assert os.listdir() == []
    assert (dict(os.environ), os.getcwd()) == (before, folder)
    with (
        pytest.raises(SetupError, match=rf"variable A is not set; .*{service.secrets}"),
        service.surroundings(),
    ):
        raise SetupError("environment variable A is not set")
    assert (dict(os.environ), os.getcwd()) == (before, folder)


# --- the command ---


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Commands for a service of a user whose home is elsewhere, where no systemd runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(services, "RUNNING_SYSTEMD", tmp_path / "nowhere")

    def command(*words):
        return run.main(["service", words[0], "--user", *words[1:]])

    command.unit = tmp_path / ".config" / "systemd" / "user" / "eyeline.service"
    return command


def test_a_dry_run_prints_the_unit_and_writes_nothing(own, capsys):
    assert own("install", "--dry-run", str(ROOT / "configs" / "bench.yaml")) == 0
    out, _ = capsys.readouterr()
    assert out.startswith(AUTHOR)
    assert f"X-Settings={ROOT / 'configs' / 'bench.yaml'}\n" in out
    assert not own.unit.exists()


def test_without_systemd_install_fails_with_one_line(own, capsys):
    assert own("install", str(ROOT / "configs" / "bench.yaml")) == 2
    _, err = capsys.readouterr()
    assert err == (
        "run.py: systemd does not run here; --dry-run prints the unit, and a container image is "
        "described in docs/daemon.md\n"
    )
    assert not own.unit.exists()


def test_a_missing_variable_is_reported_with_the_file_it_belongs_in(own, capsys, monkeypatch):
    monkeypatch.setenv("YARD_URL", "rtsp://in-the-shell-only")
    assert own("install", "--dry-run", str(ROOT / "configs" / "daemon.yaml")) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "YARD_URL" in err
    assert ".config/eyeline/eyeline.env" in err


def test_the_shipped_settings_can_be_installed(own, capsys, tmp_path):
    secrets = tmp_path / ".config" / "eyeline" / "eyeline.env"
    secrets.parent.mkdir(parents=True)
    secrets.write_text("YARD_URL=rtsp://admin:s3cret@cam.local/1\n")
    assert own("install", "--dry-run") == 0
    out, err = capsys.readouterr()
    assert f"X-Settings={ROOT / 'configs' / 'daemon.yaml'}\n" in out
    assert "s3cret" not in out + err


def test_settings_with_a_mistake_are_refused(own, capsys, tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text(CONFIG.read_text().replace("{use: nms}", "{use: nms, min_scope: 1}"))
    assert own("install", str(config)) == 2
    assert "did you mean 'min_score'?" in capsys.readouterr().err
    assert not own.unit.exists()


def test_a_unit_of_another_program_is_not_changed(own, capsys):
    own.unit.parent.mkdir(parents=True)
    own.unit.write_text("[Service]\n")
    for words in (("install", str(ROOT / "configs" / "bench.yaml")), ("uninstall",), ("status",)):
        assert own(*words) == 2
        assert "was not written by Eyeline" in capsys.readouterr().err
    assert own.unit.read_text() == "[Service]\n"


def test_a_service_that_is_not_installed_is_reported(own, capsys):
    assert own("status") == 4
    assert own("uninstall") == 0
    assert own("uninstall", "--dry-run") == 0
    out, _ = capsys.readouterr()
    assert out.count("eyeline is not installed") == 3
    assert "would" not in out


def test_a_dry_uninstall_names_the_unit(own, capsys):
    own.unit.parent.mkdir(parents=True)
    own.unit.write_text(unit_of(of_user=True))
    assert own("uninstall", "--dry-run") == 0
    assert str(own.unit) in capsys.readouterr().out
    assert own.unit.exists()


# --- whether it is ready ---


def answer_once(answer):
    """The address of a server that answers one request so."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener, listener.accept()[0] as caller:
            caller.recv(4096)
            caller.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/readyz"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nready\n", "ready"),
        (b"HTTP/1.0 503 Busy\r\n\r\nnot ready: yard opens\x1b[2J\n", "not ready: yard opens [2J"),
    ],
)
def test_the_answer_of_the_page_is_returned_on_one_line(answer, expected):
    assert services._ask(answer_once(answer)) == expected


def test_a_page_that_does_not_answer_is_reported():
    address = answer_once(b"")
    assert services._ask(address).startswith("no answer (")
    assert services._ask(address).startswith("no answer ("), "the server has ended"


# --- the container image ---


def test_the_container_image_uses_existing_files_and_extras():
    lines = (ROOT / "Containerfile").read_text().splitlines()
    (extras,) = (line.partition("EXTRAS=")[2] for line in lines if line.startswith("ARG EXTRAS="))
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    allowed = [line[1:] for line in (ROOT / ".containerignore").read_text().splitlines()]
    for package in ("run.py", "pipeline", "stages", "models", "configs", "pyproject.toml"):
        assert package in allowed
        assert (ROOT / package).exists()
    daemon = yaml.safe_load((ROOT / "configs" / "daemon.yaml").read_text())
    (health,) = (line for line in lines if "/healthz" in line)
    assert f"127.0.0.1:{daemon['stages']['web']['port']}/healthz" in health
