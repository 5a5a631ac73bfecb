"""A command is one file and one line in the table; only the one that is used is imported."""

import subprocess
import sys

import pytest

import run
from pipeline.commands import COMMANDS, Command
from pipeline.commands.arguments import count, parse
from pipeline.config import known_keys
from pipeline.errors import ConfigError, RunError
from pipeline.graph.load import load_class
from stages import LOCATIONS, STAGES
from tests.builders import ROOT

FAILURE: list[BaseException] = []
"""Errors that the command of this file raises."""


def add_arguments(parser):
    """Add the arguments of the command of this file."""
    parser.add_argument("--times", type=count, default=1)


def main(args):
    """Greet, or raise an error."""
    if FAILURE:
        raise FAILURE[0]
    sys.stdout.write("hello " * args.times)
    return 7


@pytest.fixture
def greet(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(COMMANDS, "greet", Command(__name__, "greet the user"))
    yield
    FAILURE.clear()


def test_a_command_is_one_file_and_one_line(greet, capsys):
    assert run.main(["greet", "--times", "2"]) == 7
    assert capsys.readouterr().out == "hello hello "


def test_a_command_of_its_own_is_in_the_help(greet, capsys):
    with pytest.raises(SystemExit):
        run.main(["--help"])
    assert "greet the user" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("no such thing"), 2), (RunError("no such thing"), 1)]
)
def test_errors_of_a_command_are_one_line_and_a_status(greet, capsys, error, code):
    FAILURE.append(error)
    assert run.main(["greet"]) == code
    assert capsys.readouterr().err == "run.py: no such thing\n"


def test_run_is_the_command_where_none_is_named():
    args, command = parse(["--frames", "3"])
    assert (args.frames, command.__name__) == (3, "pipeline.commands.run")


def test_only_the_module_of_the_command_is_imported():
    code = (
        "import sys, run\n"
        "from pipeline.commands.arguments import parse\n"
        "parse(['schema'])\n"
        "print([name for name in sys.modules if name.startswith(('cv2', 'models', 'stages.'))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (
        done.stdout.strip()
        == "['stages.sinks', 'stages.sinks.files', 'stages.sinks.files.output_path']"
    )


def test_evaluate_knows_each_stage_that_has_rules_for_single_streams():
    kinds = {use: load_class(use, LOCATIONS, use) for use in STAGES}
    having = {use for use, kind in kinds.items() if "streams" in known_keys(kind.Settings, "")}
    assert having == {use for use, entry in STAGES.items() if "streams" in entry.options}
    assert "blur" in having
