"""The command line under conditions that it cannot work in: one line, and the right status."""

import os
import resource
import subprocess
import sys

import pytest

import run
from models import zoo
from pipeline.commands import run as run_command
from pipeline.commands.terminal import print_error
from tests.builders import CLIP, ROOT

SHORT = ("--source", str(CLIP), "--frames", "2", "--sink", "null", "-q")


def start(*args, python=sys.executable, **more):
    """Exit status and lines of stderr of a run in a process of its own."""
    done = subprocess.run(
        [python, str(ROOT / "run.py"), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **({"stdin": subprocess.DEVNULL} | more),
    )
    return done.returncode, done.stderr.splitlines()


def test_an_unexpected_error_is_one_line_with_its_place_and_exit_1(monkeypatch, capsys):
    monkeypatch.setattr(zoo, "known", lambda: 1 // 0)
    assert run.main(["models"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("run.py: tests/test_guard.py:")
    assert line.endswith("ZeroDivisionError: integer division or modulo by zero")


def test_an_unexpected_error_shows_its_traceback_with_verbose(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_command, "graph_of", lambda args: 1 // 0)
    monkeypatch.setattr(run_command, "set_up_logging", lambda *args: None)
    assert run.main(["run", "-v"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("run.py: tests/test_guard.py:")


def test_a_long_message_is_shortened_in_the_middle(capsys):
    print_error("a" * 500 + "z" * 500)
    line = capsys.readouterr().err.rstrip()
    assert len(line) <= 300
    assert line.startswith("run.py: aaa")
    assert line.endswith("zzz")


@pytest.mark.processes
@pytest.mark.parametrize("limit", [16, 29, 40])
def test_too_few_descriptors_are_refused_before_the_start(limit):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    code, lines = start(*SHORT, preexec_fn=few)
    assert code == 2
    assert len(lines) == 1
    assert f"limit of open files is too low (found {limit}, " in lines[0]


@pytest.mark.processes
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_a_command_works_with_standard_streams_closed(closed):
    def close():
        for number in closed:
            os.close(number)

    code, lines = start("check", stdin=None, preexec_fn=close)
    assert (code, lines) == (0, [])


@pytest.mark.processes
def test_without_its_packages_it_names_make_install(tmp_path):
    # Isolated, and without site packages: as with a Python of the system.
    code = f"import runpy, sys; sys.argv = ['run.py', 'check']; sys.path.insert(0, {str(ROOT)!r});"
    code += f" runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("run.py: ")
    assert "make install" in line


def test_an_entry_of_stages_given_as_text_is_named(tmp_path):
    table = (ROOT / "stages" / "__init__.py").read_text()
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").write_text(
        table.replace('Entry("stages.fault:Fault")', '"stages.fault:Fault"')
    )
    done = subprocess.run(
        [sys.executable, "-c", "import stages"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        "TypeError: stages/__init__.py: 'fault' is not an Entry (found 'stages.fault:Fault')"
    )
