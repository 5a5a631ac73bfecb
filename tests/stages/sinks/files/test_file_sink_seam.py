"""A file sink of one's own is one file and one line in the table."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.errors import GraphError
from pipeline.frame import Frame
from pipeline.testing import run_stages
from tests.builders import CLIP, ROOT, context_of, graph
from tests.stages.sinks.files.csv_sink import LINE, Csv, CsvSettings

WITH_THE_LINE = """
import sys
import stages
from tests.stages.sinks.files.csv_sink import LINE
name, entry = LINE
stages.STAGES[name], stages.LOCATIONS[name], stages.SINKS[name] = entry, entry.location, entry.sink
import run
sys.exit(run.main(sys.argv[1:]))
"""
"""A run of the command line with one more line in the table, and what is derived from it."""


def boxes(stream, seq):
    return Frame.of(
        stream,
        seq,
        seq / 10,
        boxes=np.array([[seq, 2, 30, 40]], np.float32),
        scores=np.ones(1, np.float32),
        classes=np.zeros(1, np.int32),
        ids=np.ones(1, np.int64),
    )


def made(**tables):
    known = {LINE[0]: LINE[1].location, "boxes": "tests.processes.stages:Boxes"}
    return graph({"boxes": {"use": "boxes"}, **tables}, ("yard", "door"), known)


def test_each_stream_has_its_own_file(tmp_path):
    settings = CsvSettings(path=str(tmp_path / "out.csv"))
    run_stages(
        [Csv(settings, context_of(streams=("yard", "door")))],
        [boxes("yard", 0), boxes("door", 0), boxes("yard", 1)],
    )
    assert (tmp_path / "out-yard.csv").read_text() == "0, 0, 2, 30, 40\n1, 1, 2, 30, 40\n"
    assert (tmp_path / "out-door.csv").read_text() == "0, 0, 2, 30, 40\n"


def test_its_state_survives_a_crash(tmp_path):
    settings = CsvSettings(path=str(tmp_path / "out.csv"))
    first = Csv(settings, context_of(streams=("yard",)))
    first.process(boxes("yard", 0))
    saved = first.state("yard")
    first.process(boxes("yard", 1))  # written, but the state was not saved
    first.close()
    second = Csv(settings, context_of(streams=("yard",)))
    second.restore("yard", saved)
    run_stages([second], [boxes("yard", 1), boxes("yard", 2)])
    assert [line[0] for line in (tmp_path / "out.csv").read_text().splitlines()] == list("012")


def test_two_with_one_path_are_refused(tmp_path):
    path = str(tmp_path / "out.csv")
    assert made(csv={"use": "csv", "path": path}).nodes[-1].name == "csv"
    with pytest.raises(GraphError, match=r"stages\.more: .*out.* is written by stage csv"):
        made(csv={"use": "csv", "path": path}, more={"use": "csv", "path": path, "after": "boxes"})
    per_stream = str(tmp_path / "out-{stream}.csv")
    with pytest.raises(GraphError, match=r"stages\.more: .*out-.*\.csv is written by stage csv"):
        made(
            csv={"use": "csv", "path": path},
            more={"use": "csv", "path": per_stream, "after": "boxes"},
        )


def run_py(*arguments):
    return subprocess.run(
        [sys.executable, "-c", WITH_THE_LINE, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_line_can_add_it(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text(
        f"streams: {{demo: {{source: {CLIP}, frames: 5}}}}\n"
        "stages: {capture: {use: capture}, boxes: {use: tests.processes.stages:Boxes}}\n"
    )
    path = tmp_path / "out.csv"
    done = run_py(config, "--sink", f"csv={path}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].endswith(f" results: {path}")
    assert {line.split(",")[0] for line in path.read_text().splitlines()} == set("1234")
    refused = run_py("check", config, "--sink", "csv")
    assert (refused.returncode, refused.stderr) == (2, "run.py: --sink csv: expected csv=PATH\n")
    refused = run_py("check", config, "--sink", "cvs=out.csv")
    assert "no sink is called 'cvs'; did you mean 'csv'?" in refused.stderr
