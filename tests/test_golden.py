"""Texts that users read, kept in tests/golden so that each change of words is reviewed."""

import argparse
import importlib
import json
import logging
import os
import re
import subprocess
import sys

import pytest

import run
from pipeline.commands import COMMANDS
from pipeline.graph.schema import schema
from stages import LOCATIONS
from tests.builders import CLIP, ROOT, save_image
from tests.golden_files import check_golden
from tests.models.builders import save

pytestmark = pytest.mark.golden

BASE = f"""\
streams:
  demo: {{source: {CLIP}}}
stages:
  capture: {{use: capture}}
  preprocess: {{use: preprocess}}
  detector: {{use: detector}}
  nms: {{use: nms}}
  tracker: {{use: tracker}}
  events: {{use: events, path: out.jsonl}}
"""
BAD_SETTINGS = {
    "stage that does not exist": ("use: tracker", "use: trakcer"),
    "unknown key of a stage": ("{use: nms}", "{use: nms, min_scor: 0.3}"),
    "value of another type": ("{use: nms}", "{use: nms, min_score: high}"),
    "value out of bounds": ("{use: nms}", "{use: nms, max_iou: 1.5}"),
    "no file": (str(CLIP), "nothing.mp4"),
    "no image in a folder": (str(CLIP), "empty"),
    "address without a host": (str(CLIP), "rtsp://"),
    "after names no stage": ("{use: tracker}", "{use: tracker, after: nmx}"),
    "after of a source": ("{use: capture}", "{use: capture, after: nms}"),
    "no source": ("  capture: {use: capture}\n", ""),
    "arrays that are missing": ("  preprocess: {use: preprocess}\n", ""),
    "no detector": ("  detector: {use: detector}\n  nms: {use: nms}\n", ""),
    "model that does not exist": ("{use: detector}", "{use: detector, model: nothing}"),
    "model file that is none": ("{use: detector}", "{use: detector, model: bad.onnx}"),
    "device that is not there": ("{use: detector}", "{use: detector, device: openvino}"),
    "label that the model has not": ("{use: nms}", "{use: nms, classes: [persn]}"),
    "scores that contradict": ("{use: tracker}", "{use: tracker, low_score: 0.9, high_score: 0.1}"),
    "tracker that does not exist": ("{use: tracker}", "{use: tracker, kind: magic}"),
    "path of a directory": ("path: out.jsonl", "path: ."),
    "address as a path": ("path: out.jsonl", "path: 'http://host/out.jsonl'"),
    "ordered stage replicated": (
        "{use: detector}\n  nms: {use: nms}\n  tracker: {use: tracker}",
        "{use: detector, process: x}\n  nms: {use: nms, process: x}\n"
        "  tracker: {use: tracker, process: x}",
    ),
    "two writers": (
        "path: out.jsonl}",
        "path: out.jsonl}\n  more: {use: events, path: out.jsonl, after: tracker}",
    ),
    "two sinks on one port": (
        "path: out.jsonl}",
        "path: out.jsonl}\n  web: {use: web, after: tracker}\n"
        "  rtsp: {use: rtsp, port: 8080, after: tracker}",
    ),
    "two owners of a folder": (
        "path: out.jsonl}",
        "path: out.jsonl}\n  one: {use: clips, after: tracker}\n"
        "  two: {use: clips, after: tracker}",
    ),
    "page open to the network": (
        "path: out.jsonl}",
        "path: out.jsonl}\n  web: {use: web, address: 0.0.0.0, after: tracker}",
    ),
    "zmq open to the network": (
        "path: out.jsonl}",
        "path: out.jsonl}\n  zmq: {use: zmq, address: 'tcp://*:5556', after: tracker}",
    ),
    "mqtt with a broker that is none": (
        "path: out.jsonl}",
        "path: out.jsonl}\n  mqtt: {use: mqtt, broker: 'http://x', after: tracker}",
    ),
    "webhook without http": (
        "path: out.jsonl}",
        "path: out.jsonl}\n  hook: {use: webhook, url: 'ftp://x/y', after: tracker}",
    ),
    "variable that is not set": (str(CLIP), "${EYELINE_NOT_SET}"),
    "confidence out of bounds": ("streams:", "confidence: 2\nstreams:"),
    "not YAML": ("streams:", "streams: ["),
}
BAD_COMMANDS = {
    "unknown command": ["chekc"],
    "unknown option": ["--sorce", "0"],
    "source in place of settings": ["clip.mp4"],
    "sink that does not exist": ["--sink", "vidoe=out.mp4"],
    "sink without a target": ["--sink", "events"],
    "sink with a target too many": ["--sink", "null=x"],
    "port that is no number": ["--sink", "web=x"],
    "--set without a value": ["--set", "tracker"],
    "--set of no stage": ["--set", "trakcer.kind=none"],
    "no number of frames": ["--frames", "0"],
    "score that is none": ["--confidence", "high"],
    "summary into a settings file": ["{config}", "--summary", "{config}"],
    "settings file that is missing": ["check", "nothing.yaml"],
    "model that is missing": ["models", "inspect", "nothing"],
    "models without a name": ["models", "fetch"],
    "no daemon to reload": ["reload", "--pid", "999999"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with bad files, and no display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "EYELINE_NOT_SET"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    save_image(tmp_path / "image.png")
    save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield tmp_path
    root.handlers[:], root.level = handlers, level


def said(capsys, *argv):
    """Exit status and output of a command."""
    try:
        code = run.main(list(argv))
    except SystemExit as exit_:
        code = exit_.code
    out, err = capsys.readouterr()
    return code, out + err


def arguments_in(parser, command):
    """Yield a line for each argument of a command; the layout of --help is that of Python."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield f"{command} {choice.dest}: {choice.help}"
            for name, child in action.choices.items():
                yield from arguments_in(child, f"{command} {name}")
        elif action.dest != "help":
            name = ", ".join(action.option_strings) or action.dest
            yield f"{command} {name}{f' {action.metavar}' if action.metavar else ''}: {action.help}"


def test_help_matches_the_golden_file():
    lines = [f"{name}: {command.help}" for name, command in COMMANDS.items()]
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(command.module).add_arguments(parser)
        lines += arguments_in(parser, name)
    check_golden("help.txt", "\n".join(lines) + "\n")


def test_schema_matches_the_golden_file():
    check_golden("schema.json", json.dumps(schema(LOCATIONS), indent=2) + "\n")


def test_refusals_match_the_golden_file(here, capsys):
    lines = []
    config = here / "my.yaml"
    for case, (old, new) in BAD_SETTINGS.items():
        assert old in BASE, case
        config.write_text(BASE.replace(old, new, 1))
        code, text = said(capsys, "check", "my.yaml")
        assert (code, text.count("\n")) == (2, 1), f"{case}: {text}"
        lines.append(f"{case}\n    {text}")
    config.write_text(BASE)
    for case, argv in BAD_COMMANDS.items():
        code, text = said(capsys, *(word.replace("{config}", "my.yaml") for word in argv))
        assert (code, text.count("\n")) == (2, 1), f"{case}: {text}"
        lines.append(f"{case}\n    {text}")
    shown = "".join(lines).replace(str(ROOT), "ROOT").replace(str(here), "HERE")
    check_golden("refusals.txt", shown)


@pytest.mark.processes
def test_the_log_of_a_run_matches_the_golden_file(tmp_path):
    argv = ["--frames", "20", "--sink", "events=out.jsonl", "--sink", "video=out.mp4"]
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *argv],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+", "TIME", done.stderr)
    check_golden("run.txt", re.sub(r"\d+\.\d+|(?<=latency )\d+|(?<=p95 )\d+", "N", text))
