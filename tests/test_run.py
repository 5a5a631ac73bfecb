"""The command line, called in this process: what is refused, and in what words."""

import json
import logging
import os
import pty
import shutil
import subprocess
import sys

import pytest

import run
from models import zoo
from pipeline import config as config_file
from pipeline.commands import check, options
from pipeline.commands import run as run_command
from pipeline.commands.arguments import parse
from tests.builders import CLIP, ROOT, save_image
from tests.models.builders import save

DEMO = str(ROOT / "configs" / "demo.yaml")


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """In a folder of its own, without a display; what main() adds to the search path is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "YARD_URL"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def config(tmp_path):
    """A settings file that needs no model."""
    path = tmp_path / "my.yaml"
    path.write_text(
        f"streams:\n  demo: {{source: {CLIP}}}\n"
        "stages:\n  capture: {use: capture}\n  slow: {use: fault}\n  end: {use: 'null'}\n"
    )
    return path


def main(capsys, *argv):
    """Exit status, stdout and stderr."""
    try:
        code = run.main([str(arg) for arg in argv])
    except SystemExit as exit_:
        code = exit_.code
    out, err = capsys.readouterr()
    return code, out, err


def refusal(capsys, *argv):
    """What is said on stderr when the command is refused, without the name of the program."""
    code, out, err = main(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("run.py: ")
    return err.removeprefix("run.py: ").rstrip("\n")


def settings(*argv):
    """The settings that arguments come to."""
    return options.settings_of(parse([str(arg) for arg in argv])[0])


# --- check ---


def test_check_draws_the_graph_and_starts_nothing(capsys, config):
    code, out, err = main(capsys, "check", config)
    assert (code, err) == (0, "")
    assert out.splitlines()[:4] == [
        f"demo: {CLIP} (lossless, 6 slots)",
        "capture  Capture",
        "└─ slow  Fault",
        "   └─ end  Null",
    ]
    assert "processes: " in out


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "configs").glob("*.yaml")])
def test_check_accepts_every_shipped_file(name, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("YARD_URL", "rtsp://user:secret@camera/stream")
    code, out, err = main(capsys, "check", f"configs/{name}")
    assert (code, err) == (0, "")
    assert "capture" in out
    assert "secret" not in out


def test_check_without_a_file_is_about_the_demo_from_wherever_it_is_called(capsys):
    code, out, _ = main(capsys, "check")
    assert code == 0
    assert out.startswith(f"demo: {CLIP} (lossless, ")


def test_check_takes_the_options_of_a_run(capsys, config):
    code, out, _ = main(capsys, "check", config, "--source", CLIP, "--source", CLIP, "--live")
    assert code == 0
    assert out.count(f"{CLIP} (live, ") == 2


# --- confidence ---


@pytest.fixture
def carded(tmp_path):
    """Writes a model and its card, and gives the path of the card."""

    def write(name, **thresholds):
        save(tmp_path / f"{name}.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
        path = tmp_path / f"{name}.yaml"
        card = {"name": name, "family": "yolov8", "weights": {"file": f"{name}.onnx"}}
        path.write_text(json.dumps(card | {"thresholds": thresholds}))
        return path

    return write


def thresholds(capsys, *argv):
    """Name of a stage -> the values in use, as `check` shows them."""
    code, out, err = main(capsys, "check", DEMO, *argv)
    assert (code, err) == (0, "")
    found = {}
    for line in out.splitlines():
        name, _, values = line.lstrip("└├─│ ").partition("  ")
        values = values.partition("  ")[2]
        if values:
            pairs = (value.rsplit(" ", 1) for value in values.split(", "))
            found[name.partition(" ")[0]] = {key: float(value) for key, value in pairs}
    return found


def test_check_shows_the_thresholds_of_the_card(capsys, carded, caplog):
    found = thresholds(capsys, "--model", carded("mine", score=0.35, iou=0.6))
    assert found["nms"] == {"min_score": 0.1, "confidence": 0.35, "max_iou": 0.6}
    assert found["tracker"] == {
        "low_score": 0.3,
        "high_score": 0.35,
        "confidence": 0.35,
        "new_track_score": 0.35,
    }


@pytest.mark.parametrize("option", [("--confidence", 0.7), ("--set", "confidence=0.7")])
def test_the_confidence_of_the_run_wins_over_that_of_the_card(capsys, carded, option):
    found = thresholds(capsys, "--model", carded("mine", score=0.35), *option)
    assert found["nms"]["confidence"] == 0.7
    assert found["tracker"]["new_track_score"] == found["tracker"]["confidence"] == 0.7


def test_without_a_card_the_thresholds_are_those_of_the_stages(capsys, carded):
    found = thresholds(capsys, "--model", carded("mine").with_suffix(".onnx"))
    assert found["nms"] == {"min_score": 0.1, "max_iou": 0.5}
    assert found["tracker"] == {"low_score": 0.3, "high_score": 0.5, "new_track_score": 0.65}


def test_a_setting_that_is_given_wins_over_the_card(capsys, carded):
    given = ("--set", "nms.max_iou=0.3", "--set", "tracker.new_track_score=0.9")
    found = thresholds(capsys, "--model", carded("mine", score=0.35, iou=0.6), *given)
    assert found["nms"]["max_iou"] == 0.3
    assert found["tracker"]["new_track_score"] == 0.9


def test_of_two_models_each_tracker_takes_the_card_of_its_own(capsys, carded):
    path = carded("here").parent / "two.yaml"
    stages = {"capture": {"use": "capture"}}
    for name, score in (("a", 0.35), ("b", 0.8)):
        stages[f"pre_{name}"] = {"use": "preprocess", "after": "capture"}
        stages[f"find_{name}"] = {"use": "detector", "model": str(carded(name, score=score))}
        stages[f"nms_{name}"] = {"use": "nms"}
        stages[f"tracker_{name}"] = {"use": "tracker"}
    path.write_text(json.dumps({"streams": {"demo": {"source": str(CLIP)}}, "stages": stages}))
    code, out, _ = main(capsys, "check", path)
    assert code == 0
    for name, score in (("a", 0.35), ("b", 0.8)):
        [line] = [line for line in out.splitlines() if f"tracker_{name}  " in line]
        assert line.endswith(f"confidence {score}, new_track_score {score}")


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "inf", "half", ""])
def test_a_confidence_that_is_none_is_refused(capsys, value):
    words = f"argument --confidence: expected a number from 0 to 1, found {value!r}"
    assert words in refusal(capsys, "check", DEMO, f"--confidence={value}")


def test_a_threshold_that_contradicts_the_confidence_is_refused(capsys):
    for given, words in (
        ("nms.min_score=0.6", "nms: min_score: expected at most confidence (0.5), found 0.6"),
        ("tracker.high_score=0.6", "tracker: high_score: expected at most confidence (0.5)"),
        ("tracker.new_track_score=0.4", "confidence: expected at most new_track_score (0.4)"),
    ):
        assert words in refusal(capsys, "check", "--confidence", 0.5, "--set", given)


# --- schema ---


def test_schema_prints_json(capsys):
    code, out, err = main(capsys, "schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


# --- refusals ---


def test_a_file_that_is_not_there(capsys):
    assert refusal(capsys, "check", "no.yaml") == (
        "no.yaml: cannot be read: No such file or directory"
    )


def test_without_the_word_run_it_is_a_run(capsys):
    assert refusal(capsys, "no.yaml") == refusal(capsys, "run", "no.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "my.yaml: expected `streams:` and `stages:`, found nothing"),
        ("streams: [a]\nstages: {}", "my.yaml: streams: expected a table, found a list"),
        ("streams: {}\nstages:", "my.yaml: stages: expected a table, found nothing"),
        ("streams: {a: {source: x}}\nstages: {c: {use: captur}}", "did you mean 'capture'?"),
        ("streams: {a: {source: x}}\nstages: {c: {use: capture}}", "x: no such file, folder"),
        (
            "streams: {a: 3}\nstages: {c: {use: capture}}",
            "streams.a: expected settings, found a number",
        ),
        ("streams: {a: {}}\nstages: {c: [1]}", "stages.c: expected settings, found a list"),
        ("streams: {a: {}}\nstages: {c: {use: capture}}", "streams.a: source: missing"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text, words, capsys, config):
    config.write_text(text)
    assert words in refusal(capsys, config)


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--source", "no.mp4"], "streams.no: no.mp4: no such file, folder or device"),
        (["--source", ""], "--source: expected a camera index, file, folder or address"),
        (["--sink", "windoww"], "no sink is called 'windoww'; did you mean 'window'?"),
        (["--sink", "web=x"], "--sink web: expected a port number, web=PORT"),
        (["--sink", "rtsp=:8554"], "--sink rtsp: expected a port number, rtsp=PORT"),
        (["--sink", "null=x"], "--sink null: takes no target"),
        (["--sink", "events"], "--sink events: expected events=PATH"),
        (["--sink", "events="], "--sink events: expected events=PATH"),
        (["--set", "slow.delay_ms"], "--set: expected STAGE.KEY=VALUE"),
        (["--set", "slow.delay_ms=x"], "slow: delay_ms: expected `float`, got `str`"),
        (["--set", "slow.delay=1"], "slow: delay: unknown key; did you mean 'delay_ms'?"),
        (["--set", "slwo.delay_ms=1"], "no stage is named 'slwo'; did you mean 'slow'?"),
        (["--set", "supervisor.hang_s=0"], "supervisor.hang_s: expected `float` > 0"),
        (["--set", "supervisor.hang=1"], "supervisor.hang: unknown key"),
        (["--set", "streams.demo.loop=maybe"], "streams.demo: loop: expected `bool`"),
        (["--set", "streams.demo.lop=true"], "streams.demo: lop: unknown key"),
        (["--set", "streams.yard.loop=true"], "streams.yard: source: missing"),
        (["--set", "streams=3"], "streams"),
        (["--set", "zzz=1"], "zzz: unknown key"),
        (["--frames", "0"], "argument --frames: expected a number from 1 to 999999999, found 0"),
        (["--frames", "many"], "expected a number from 1 to 999999999, found many"),
        (["--frames", "9" * 5000], "expected a number from 1 to 999999999, found a text of 5000"),
        (["--source", "9" * 5000], "cannot be read: File name too long"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--no-such"], "unrecognized arguments: --no-such"),
        (["one", "more"], "unrecognized arguments: one more"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(command, options, words, capsys, config):
    assert words in refusal(capsys, command, config, *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--summary", "rtsp://u:secret@h/x"], "output: expected a path of this machine"),
        (["--trace", "~no_such_user_here/x"], "no home folder is known for"),
        (["--sink", "events=rtsp://u:secret@h/x"], "path: expected a path of this machine"),
        (["--sink", "pictures=rtsp://u:secret@h/x"], "folder: expected a path of this machine"),
        (["--sink", "clips=rtsp://u:secret@h/x"], "folder: expected a path of this machine"),
    ],
)
def test_an_address_as_an_output_makes_no_folder_of_its_name(
    options, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(capsys, "run", DEMO, "--sink", "null", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("boxes", "accepted"), [(2000, True), (2100, False), (10**9, False)])
def test_more_boxes_than_can_be_saved_are_refused_before_the_start(capsys, boxes, accepted):
    options = ["--set", f"nms.max_boxes={boxes}", "--set", f"nms.max_candidates={boxes}"]
    if accepted:
        assert main(capsys, "check", DEMO, *options)[0] == 0
        return
    words = refusal(capsys, "check", DEMO, *options)
    assert f"its answer to a frame of {boxes} boxes cannot be saved" in words
    assert words.endswith("to at most 2016")


def test_the_only_stage_of_a_file_cannot_be_replaced_by_a_sink(capsys, config):
    config.write_text("streams: {a: {source: x}}\nstages: {end: {use: 'null'}}")
    assert "the settings file has only sinks; add a source stage" in refusal(
        capsys, "check", config, "--sink", "null"
    )


def test_a_variable_that_is_not_set_is_named(capsys):
    words = refusal(capsys, "check", ROOT / "configs" / "rtsp.yaml")
    assert words.endswith(
        "configs/rtsp.yaml: streams.yard.source: environment variable YARD_URL is not set"
    )


@pytest.mark.parametrize("option", ["--summary", "--trace"])
def test_a_file_that_cannot_be_written_is_refused_before_the_run(option, capsys, config, tmp_path):
    (tmp_path / "file").write_text("")
    words = refusal(capsys, config, option, tmp_path / "file" / "x.json")
    assert words.startswith(f"{tmp_path}/file/x.json: cannot be written: ")


@pytest.fixture
def busy(tmp_path):
    """A settings file that reads a clip, a folder of pictures, and a model with a card."""
    shutil.copy(CLIP, tmp_path / "c2.mp4")
    (tmp_path / "shots").mkdir()
    save_image(tmp_path / "shots" / "one.png")
    shutil.copy(zoo.verify("ssdlite_mobilenet_v2"), tmp_path / "m.onnx")
    (tmp_path / "m.yaml").write_text(
        "name: m\nfamily: ssd\nweights: {file: m.onnx}\nlabels: coco80\n"
    )
    path = tmp_path / "busy.yaml"
    path.write_text(
        "streams:\n  c2: {source: c2.mp4}\n  shots: {source: shots}\n"
        "stages:\n  capture: {use: capture}\n  preprocess: {use: preprocess}\n"
        "  detector: {use: detector, model: m.yaml}\n  nms: {use: nms}\n"
        "  events: {use: events, path: e.jsonl}\n  mot: {use: mot, path: m.txt, after: nms}\n"
    )
    return path


INPUTS = {
    "c2.mp4": "is the file of stream c2",
    "./x/../c2.mp4": "is the file of stream c2",
    "link.mp4": "is the file of stream c2",
    "shots/one.png": "is the file of stream shots",
    "busy.yaml": "is the settings file",
    "m.onnx": "is read by stage detector",
    "m.yaml": "is read by stage detector",
}


@pytest.mark.parametrize("path", INPUTS)
def test_what_is_read_is_not_written(path, capsys, busy, tmp_path):
    os.link(tmp_path / "c2.mp4", tmp_path / "link.mp4")
    (tmp_path / "x").mkdir()
    held = (tmp_path / path).read_bytes()
    words = f"{path.removeprefix('./')} {INPUTS[path]}; choose another file"
    for option in ("--summary", "--trace"):
        assert (
            refusal(capsys, "run", busy, option, path)
            == f"{option} {path.removeprefix('./')} {INPUTS[path]}; choose another file"
        )
    said = refusal(capsys, "bench", busy, "--json", path, "--set", "streams.c2.mode=live")
    assert said == f"--json {path.removeprefix('./')} {INPUTS[path]}; choose another file"
    for kind in ("events", "mot"):
        assert refusal(capsys, "check", busy, "--sink", f"{kind}={path}").endswith(words)
    assert (tmp_path / path).read_bytes() == held


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--summary", "e.jsonl"], "--summary e.jsonl is written by stage events"),
        (["--trace", "m-c2.txt"], "--trace m-c2.txt is written by stage mot"),
        (["--summary", "a", "--trace", "./a"], "--trace a is written by --summary"),
    ],
)
def test_two_outputs_do_not_go_to_one_file(options, words, capsys, busy, tmp_path):
    assert refusal(capsys, "run", busy, *options) == f"{words}; choose another file"
    assert not (tmp_path / options[-1]).exists()


def test_a_video_beside_the_pictures_of_its_folder_is_no_harm(capsys, busy):
    code, _, err = main(capsys, "check", busy, "--sink", "video=shots/out.mp4")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--live"], "stream clip is live, so it sets the pace; use a file"),
        (["--source", "rtsp://camera/x"], "stream stream1 is live, so it sets the pace"),
        (["--frames", 1], "1 frame is too few to measure; set `loop: true`"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_starts(options, words, capsys, tmp_path):
    said = refusal(capsys, "bench", "--json", tmp_path / "b.json", *options)
    assert said.startswith(f"bench: {words}")
    assert not (tmp_path / "b.json").exists()


def test_a_graph_without_a_model_is_not_measured(capsys, config):
    assert "no stage that runs a model" in refusal(capsys, "bench", config)


@pytest.mark.processes
@pytest.mark.soak
def test_frames_that_turn_out_too_few_are_no_measurement(tmp_path):
    import cv2  # after run.py has set what it reads from the environment

    clip = cv2.VideoCapture(str(CLIP))
    cv2.imwrite(str(tmp_path / "one.png"), clip.read()[1])
    clip.release()
    command = [sys.executable, str(ROOT / "run.py"), "bench", "--rounds", "1"]
    command += ["--source", str(tmp_path / "one.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr.startswith("run.py: bench: 1 frame is too few to measure")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2


def test_a_run_is_quiet_or_verbose(capsys, config):
    assert "not allowed with" in refusal(capsys, config, "-q", "-v")


def test_a_source_with_a_line_break_in_its_name_is_refused_in_one_line(capsys, config):
    assert "no such file" in refusal(capsys, "check", config, "--source", "a\nb\x1b[31m.mp4")


def test_models_that_are_not_named_are_asked_for(capsys):
    assert refusal(capsys, "models", "inspect") == (
        "models inspect: expected the name of a card, or a file"
    )


def test_a_model_of_an_unknown_kind_is_refused(capsys):
    assert "no_such_model" in refusal(capsys, "models", "inspect", "no_such_model")


def test_a_model_that_nothing_is_known_of_is_not_verified(capsys, busy):
    code, out, err = main(capsys, "models", "verify", "m.yaml")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("run.py: m.yaml: nothing to compare with: the card has no sha256")
    code, out, _ = main(capsys, "models", "verify", "m.onnx")
    assert (code, out.splitlines()[0].endswith("m.onnx: matches its card")) == (0, True)


def test_help_names_every_command(capsys):
    code, out, _ = main(capsys, "--help")
    assert code == 0
    for command in ("run", "check", "bench", "models", "schema"):
        assert command in out


def test_an_error_on_the_way_is_no_traceback(capsys, config, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "main", interrupted)
    assert main(capsys, "check", config) == (130, "", "")


@pytest.mark.processes
def test_a_terminal_that_is_closed_ends_the_run_in_order(config, tmp_path):
    """As by its window: the session's leader gets SIGHUP, and nothing can be written any more."""
    config.write_text(config.read_text().replace(f"source: {CLIP}", f"source: {CLIP}, loop: true"))
    summary = tmp_path / "s.json"
    config.write_text(config.read_text().replace("{use: fault}", "{use: fault, delay_ms: 5}"))
    ours, theirs = pty.openpty()
    take_it = "import fcntl, termios, os, sys; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    command = [sys.executable, "-c", take_it + "os.execv(sys.argv[1], sys.argv[1:])"]
    command += [sys.executable, str(ROOT / "run.py"), "run", str(config), "--summary", str(summary)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            seen = b""
            while b"captured" not in seen:  # the table is there
                seen += os.read(ours, 1 << 16)
        finally:
            os.close(ours)
        assert process.wait(60) == 0
    assert json.loads(summary.read_text())["exit"] == 0


@pytest.mark.parametrize("command", ["run", "check", "bench"])
def test_a_file_that_the_user_did_not_name_is_not_named(command, capsys):
    options = ["--source", "missing.mp4"] + ["--sink", "null"] * (command != "bench")
    said = refusal(capsys, command, *options)
    assert said == "streams.missing: missing.mp4: no such file, folder or device"
    said = refusal(capsys, command, DEMO, *options)
    assert said.startswith("configs/demo.yaml: streams.missing: ")


@pytest.mark.parametrize("word", ["clip.mp4", str(CLIP), "shots", "0", "rtsp://cam/x", "a.JPG"])
def test_a_source_in_place_of_a_settings_file_gets_advice(word, capsys, busy):
    for words in ([word], ["run", word], ["check", word]):
        assert refusal(capsys, *words) == (
            f"{word}: not a settings file; to use it as a source: --source {word}"
        )


def test_a_password_in_an_address_that_is_misplaced_is_not_shown(capsys):
    assert "--source rtsp://cam/x" in refusal(capsys, "rtsp://me:secret@cam/x")


def test_a_command_that_is_spelt_wrong_gets_a_hint(capsys, tmp_path):
    words = "chek: no such command, and no such file; did you mean 'check'?"
    assert refusal(capsys, "chek", "--source", CLIP) == words
    (tmp_path / "chek").write_text("")
    assert refusal(capsys, "chek").startswith("chek: expected `streams:`")


@pytest.mark.parametrize("address", ["rtsp://", "rtsp:///x", "http://u:p@/x", "rtsp://:554/x"])
def test_an_address_without_a_host_is_refused(address, capsys, config):
    said = refusal(capsys, "check", config, "--source", address)
    assert said.endswith(": the host is missing; write it as in rtsp://HOST/PATH")
    assert "u:p" not in said


# --- what is said at the end ---


def results(config, *options, streams=("c2", "shots")):
    graph = run_command.graph_of(parse(["run", str(config), *options])[0])
    return run_command.results(graph, streams)


def test_only_files_that_are_there_are_named(busy, tmp_path):
    assert results(busy) == []
    for name in ("m.txt", "m-c2.txt"):  # the first is of an earlier run with one stream
        (tmp_path / name).write_text("")
    assert results(busy) == ["results: m-c2.txt"]
    for name in ("e.jsonl", "m-shots.txt", "m-later.txt"):
        (tmp_path / name).write_text("")
    assert results(busy, streams=("c2", "shots", "later", "c2")) == [
        "results: e.jsonl, m-c2.txt, m-shots.txt, m-later.txt"
    ]


def test_of_many_files_the_first_is_named(busy, tmp_path):
    streams = [f"s{n}" for n in range(8)]
    for name in streams:
        (tmp_path / f"m-{name}.txt").write_text("")
    assert results(busy, streams=streams) == ["results: m-s0.txt … and 7 more"]
    assert ", m-s5.txt" in results(busy, streams=streams[:6])[0]


def test_the_parts_of_a_video_are_named_but_not_those_of_an_earlier_run(config, tmp_path):
    names = ["mix.mp4", "mix.part2.mp4", "mix.part3.mp4", "mix.part5.mp4"]
    for second, name in enumerate(names):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (second + 9, second + 9))
    stages = "  nms: {use: nms}\n  video: {use: video, path: mix.mp4}\n"
    config.write_text(
        f"streams:\n  demo: {{source: {CLIP}}}\nstages:\n  capture: {{use: capture}}\n"
        "  preprocess: {use: preprocess}\n  detector: {use: detector}\n" + stages
    )
    assert results(config, streams=["demo"]) == [f"results: {', '.join(names[:3])}"]
    os.utime(tmp_path / "mix.part3.mp4", (3, 3))
    assert results(config, streams=["demo"]) == ["results: mix.mp4, mix.part2.mp4"]


def test_a_folder_is_named_when_there_is_something_in_it(config, tmp_path):
    (tmp_path / "clips").mkdir()
    options = ("--sink", "clips=clips", "--sink", "events=-", "--sink", "events=/dev/null")
    assert results(DEMO, *options) == []
    (tmp_path / "clips" / "a.mp4").write_text("")
    assert results(DEMO, *options) == ["results: clips"]


# --- what options come to ---


def test_sources_replace_the_streams_and_get_names_that_differ(config):
    raw, _ = settings(
        *("run", config),
        *("--source", "0", "--source", "yard cam.mp4", "--source", "a/yard_cam.avi"),
        *("--source", "rtsp://cam/x", "--source", "1st.mp4"),
    )
    assert raw["streams"] == {
        "camera0": {"source": "0"},
        "yard_cam": {"source": "yard cam.mp4"},
        "yard_cam_2": {"source": "a/yard_cam.avi"},
        "stream4": {"source": "rtsp://cam/x"},
        "stream5": {"source": "1st.mp4"},
    }


def test_sinks_replace_those_of_the_file_and_follow_the_last_stage():
    raw, where = settings("run", DEMO, "--sink", "events=a.jsonl", "--sink", "events=b.jsonl")
    assert where == "configs/demo.yaml"
    kept = ["capture", "preprocess", "detector", "nms", "tracker"]
    assert list(raw["stages"]) == [*kept, "events", "events2"]
    assert raw["stages"]["events"] == {"use": "events", "after": "tracker", "path": "a.jsonl"}
    assert raw["stages"]["events2"] == {"use": "events", "after": "tracker", "path": "b.jsonl"}


def test_a_sink_with_a_place_of_its_own_needs_no_target():
    raw, _ = settings("run", DEMO, "--sink", "web", "--sink", "clips", "--sink", "zmq=ipc:///a")
    assert raw["stages"]["web"] == {"use": "web", "after": "tracker"}
    assert raw["stages"]["clips"] == {"use": "clips", "after": "tracker"}
    assert raw["stages"]["zmq"] == {"use": "zmq", "after": "tracker", "address": "ipc:///a"}


def test_model_and_device_go_to_the_detector():
    raw, _ = settings("run", DEMO, "--model", "x.onnx", "--device", "cpu")
    assert raw["stages"]["detector"]["model"] == "x.onnx"
    assert raw["stages"]["detector"]["device"] == "cpu"
    assert "model" not in raw["stages"]["nms"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ("--model", "a.onnx", "--model", "b.onnx"),
            "--model: more models than stages that have one (found 2 models, 1 stages); leave one",
        ),
        (("--model", "detectr=a.onnx"), "--model detectr=...: no stage of this name has a model"),
    ],
)
def test_a_model_for_no_stage_is_refused(capsys, given, words):
    # It was ignored without a message.
    assert refusal(capsys, "check", DEMO, *given).startswith(words)


def test_a_device_for_no_stage_is_refused(capsys, tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text(
        f"streams: {{a: {{source: {CLIP}}}}}\nstages: {{capture: {{use: capture}}}}\n"
    )
    words = "--device: no stage of the settings has a device; leave it out"
    assert refusal(capsys, "check", config, "--device", "cpu") == words


def test_a_misspelt_command_with_arguments_gets_a_hint(capsys):
    for words in (["chek", "my.yaml"], ["chek", "--frames", "3", "my.yaml"]):
        assert refusal(capsys, *words) == "chek: no such command; did you mean 'check'?"


def test_frames_and_live_go_to_every_stream(config):
    raw, _ = settings("run", config, "--source", "a", "--source", "b", "--frames", 5, "--live")
    for table in raw["streams"].values():
        assert (table["frames"], table["mode"]) == (5, "live")


def test_what_is_set_comes_last(config):
    raw, _ = settings(
        *("run", config, "--frames", 5, "--set", "streams.demo.frames=9"),
        *(
            "--set",
            "slow.delay_ms=3",
            "--set",
            "supervisor.hang_s=7",
            "--set",
            "placement=separate",
        ),
    )
    checked = config_file.check(raw, "my.yaml")
    assert checked.streams["demo"]["frames"] == 9
    assert checked.stages["slow"]["delay_ms"] == 3
    assert checked.supervisor.hang_s == 7
    assert checked.placement == "separate"


def test_without_a_display_the_window_is_left_out_with_one_line(caplog, monkeypatch):
    monkeypatch.chdir(ROOT)
    graph = run_command.graph_of(parse(["run", DEMO])[0])
    assert "window" not in [node.name for node in graph.nodes]
    assert {"video", "events"} <= {node.name for node in graph.nodes}
    [record] = [r for r in caplog.records if "no window" in r.getMessage()]
    assert record.levelno == logging.WARNING


def test_libraries_start_no_threads_of_their_own():
    assert os.environ["OMP_NUM_THREADS"]
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"]


def test_a_stage_of_the_users_own_is_found_beside_the_settings(capsys, config, tmp_path):
    (tmp_path / "my_stage_of_test_run.py").write_text(
        "from pipeline.stage import Stage\n\n\nclass Mine(Stage):\n    pass\n"
    )
    config.write_text(config.read_text().replace("use: fault", "use: 'my_stage_of_test_run:Mine'"))
    code, out, _ = main(capsys, "check", config)
    assert code == 0
    assert "slow  Mine" in out
    assert sys.modules.pop("my_stage_of_test_run")


def test_a_bare_image_runs_as_a_source(capsys, config, tmp_path):
    code, out, _ = main(capsys, "check", config, "--source", save_image(tmp_path / "one.png"))
    assert code == 0
    assert out.startswith(f"one: {tmp_path}/one.png (lossless")
