"""Every command that takes a model answers a hostile one in one line, and starts nothing."""

import os

import pytest

from run import main
from tests.models.builders import save
from tests.models.test_onnx_graph import doubling, with_functions


def expanding(path):
    with_functions(path, *doubling(40))


def pipe(path):
    os.mkfifo(path)


def zeros(path):
    path.touch()
    os.truncate(path, 5_000_000_000)


def directory(path):
    path.mkdir()


COMMANDS = [
    ("models", "inspect", "MODEL"),
    ("models", "verify", "MODEL"),
    ("check", "--model", "MODEL"),
    ("run", "--model", "MODEL", "--sink", "null"),
    ("bench", "--model", "MODEL", "--rounds", "1"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("make", [expanding, pipe, zeros, directory], ids=lambda f: f.__name__)
def test_a_model_that_never_loads_is_refused_in_one_line(tmp_path, capsys, command, make):
    model = tmp_path / "m.onnx"
    make(model)
    assert main([str(model) if word == "MODEL" else word for word in command]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("run.py: ")
    assert str(model) in line
    assert len(line) <= 308


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_card_that_is_a_pipe_is_refused_in_one_line(tmp_path, capsys, command):
    card = tmp_path / "m.yaml"
    os.mkfifo(card)
    assert main([str(card) if word == "MODEL" else word for word in command]) == 2
    assert "is not a regular file (found a named pipe)" in capsys.readouterr().err


def test_inspect_shows_a_hostile_file_without_control_characters(tmp_path, capsys):
    metadata = {"license": "MIT\x1b]0;owned\x07\x1b[2J\n", "names": repr({0: "\x1b[5mx", 1: "b"})}
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)}, metadata=metadata)
    assert main(["models", "inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() and len(line) <= 310 for line in lines)
    assert "licence  MIT?]0;owned??[2J" in lines
    assert "labels   2: ?[5mx, b" in lines
