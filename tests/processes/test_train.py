"""`run.py train`: from labelled pictures to a model that the pipeline runs, and its refusals."""

import json
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

import run
from models.training.record import read_record
from tests.builders import CLIP, ROOT

pytestmark = pytest.mark.processes
COLOURS = {"blue": (200, 40, 40), "green": (40, 200, 40), "red": (40, 40, 200)}


def eyeline(*words, folder, timeout=120):
    """Run a command as a user does."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=folder,
    )


def pictures(folder, count=12):
    """A folder per class, with squares of its colour."""
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(60, 190, (64, 80, 3), np.uint8)
            x, y = rng.integers(0, 40), rng.integers(0, 24)
            cv2.rectangle(pixels, (x, y), (x + 36, y + 36), colour, -1)
            cv2.imwrite(str(folder / label / f"{number}.png"), pixels)
    return folder


def train(folder, data, *more):
    return eyeline(
        "train", "--data", data, "--backbone", "ssdlite", "--size", "96", "--threads", "1",
        "--out", folder / "out", "--name", "colours", *more, folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = train(folder, pictures(folder / "pictures"), "--set", "views=2")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_result_states_its_time_figures_and_next_commands(trained):
    folder, text = trained
    assert "takes about" in text
    assert f"run it: python run.py --model {folder / 'out' / 'colours.yaml'}" in text
    record = read_record(folder / "out" / "train.json")
    assert record.test["top-1"] >= 0.8
    assert record.difference < 1e-3
    parts = json.loads((folder / "out" / "parts.json").read_text())
    assert [len(parts[part]) for part in ("train", "val", "test")] == [24, 6, 6]


def test_the_stated_command_runs_the_model(trained, capsys):
    folder, text = trained
    words = re.search(r"^run it: python run.py (.*) --source 0$", text, re.MULTILINE)[1].split()
    assert run.main(["check", *words]) == 0
    assert "classify  Classify\n   ├─" in capsys.readouterr().out
    red, out = folder / "pictures" / "red", folder / "events.jsonl"
    words += ["--set", "classify.min_score=0", "--sink", f"events={out}"]
    done = eyeline(*words, "--source", red, folder=folder)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in out.read_text().splitlines()]
    found = [label["label"] for event in events for label in event.get("labels", [])[:1]]
    assert len(events) == 12
    assert found.count("red") > 12 / 2


def test_evaluate_gives_the_figure_of_the_trainer(trained):
    folder, _ = trained
    done = eyeline(
        "evaluate", folder / "pictures", "--split", f"{folder / 'out' / 'parts.json'}:test",
        "--model", folder / "out" / "colours.yaml", "--json", folder / "figures.json", "-q",
        folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "figures.json").read_text())["classification"]
    record = read_record(folder / "out" / "train.json")
    assert figures["images"] == 6
    assert figures["top_1"] == pytest.approx(record.test["top-1"], abs=0.005)


def test_a_finished_model_is_not_replaced(trained):
    folder, _ = trained
    done = train(folder, folder / "pictures")
    assert done.returncode == 2
    assert "a finished model is there" in done.stderr


def test_every_fault_of_the_data_is_listed_and_nothing_is_trained(tmp_path):
    data = pictures(tmp_path / "pictures", 3)
    (data / "red" / "empty.png").write_bytes(b"")
    (data / "green" / "cut.jpg").write_bytes(cv2.imencode(".jpg", np.eye(64) * 255)[1][:200])
    (data / "violet").mkdir()
    done = train(tmp_path, data)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3, done.stderr
    for name in ("empty.png", "cut.jpg", "violet"):
        assert name in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "finetun"), "did you mean 'finetune'?"),
        (("--method", "no_such:Class"), "there is no module 'no_such'"),
        (("--set", "vews=3"), "codes: vews: unknown key; did you mean 'views'?"),
        (("--set", "views=0"), "codes: views: expected"),
        (("--size", "100"), "multiple of 32"),
        (("--layers", "99"), "blocks (found 99)"),
        (("--backbone", "mobilenet"), "mobilenet"),
        (("--val", "0.6", "--test", "0.6"), "leave nothing to train with"),
        (("--parts", "none.json"), "none.json"),
        (("--format", "coco"), "COCO"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(words, message, trained, tmp_path, capsys):
    folder, _ = trained
    out = ("--data", folder / "pictures", "--backbone", "ssdlite", "--out", tmp_path / "out")
    assert run.main(["train", *map(str, (*out, *words))]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_codes_need_no_pytorch_and_other_methods_say_how_to_get_it(
    trained, tmp_path, monkeypatch, capsys
):
    folder, _ = trained
    monkeypatch.setitem(sys.modules, "torch", None)  # so that an import of it fails
    words = ["train", "--data", str(folder / "pictures"), "--backbone", "ssdlite", "--size", "64"]
    words += ["--threads", "1", "--set", "views=1", "--out", str(tmp_path / "out")]
    assert run.main([*words, "--method", "codes"]) == 0
    monkeypatch.delitem(sys.modules, "models.training.gradient", raising=False)
    monkeypatch.delitem(sys.modules, "models.training.methods.ssd", raising=False)
    capsys.readouterr()
    assert run.main([*words[:3], "--method", "ssd"]) == 2
    assert "run `make train`" in capsys.readouterr().err


def test_a_classifier_of_crops_comes_with_settings_that_run(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(60, 190, (96, 128, 3), np.uint8)
        lines = []
        for place, colour in enumerate(((200, 40, 40), (40, 40, 200))):
            x = int(rng.integers(2, 20)) + 64 * place
            cv2.rectangle(pixels, (x, 20), (x + 39, 75), colour, -1)
            lines.append(f"{place} {(x + 20) / 128} {48 / 96} {40 / 128} {56 / 96}\n")
        for folder in ("images", "labels"):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "set" / "images" / f"{number}.png"), pixels)
        (tmp_path / "set" / "labels" / f"{number}.txt").write_text("".join(lines))
    (tmp_path / "set" / "data.yaml").write_text("train: images\nnames: [blue, red]\n")
    done = train(tmp_path, tmp_path / "set", "--set", "views=1")
    assert done.returncode == 0, done.stderr
    settings = tmp_path / "out" / "objects.yaml"
    assert f"run it: python run.py {settings} --source 0" in done.stdout
    # Walkers are neither blue nor red squares, so that no score of theirs is high.
    words = ("--set", "name.min_score=0", "--set", "name.agreement=0")
    sink = f"events={tmp_path / 'events.jsonl'}"
    done = eyeline(
        settings, "--source", CLIP, "--frames", 12, "--sink", sink, *words, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    events = (tmp_path / "events.jsonl").read_text()
    assert '"attributes":{"name":{"label":"' in events


def test_a_single_class_is_nothing_to_tell_apart(tmp_path, capsys):
    data = pictures(tmp_path / "pictures", 6)
    mapping = tmp_path / "map.yaml"
    mapping.write_text("red: thing\nblue: thing\n")
    words = ("--data", data, "--map", mapping, "--backbone", "ssdlite", "--out", tmp_path / "out")
    assert run.main(["train", *map(str, words)]) == 2
    assert "one class alone to train with (found 'thing')" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_training_killed_at_any_time_ends_with_the_same_bytes(seed, trained, tmp_path):
    pytest.importorskip("torch")
    folder, _ = trained
    more = ("--method", "finetune", "--epochs", "4", "--set", "batch=4", "--set", "views=2")

    def command(out):
        return [
            sys.executable, str(ROOT / "run.py"), "train", "--data", str(folder / "pictures"),
            "--backbone", "ssdlite", "--size", "96", "--threads", "1", "--name", "colours",
            "--out", str(out), *more,
        ]  # fmt: skip

    subprocess.run(command(tmp_path / "undisturbed"), check=True, stdout=subprocess.DEVNULL)
    random = np.random.default_rng(seed)
    for _ in range(4):
        process = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL)
        time.sleep(float(random.uniform(2, 12)))  # the time of the kill, not a synchronisation
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "killed" / "colours.yaml").exists():
            break
    else:
        subprocess.run(command(tmp_path / "killed"), check=True, stdout=subprocess.DEVNULL)
    names = ("colours.onnx", "parts.json")
    for name in names:
        one, other = (tmp_path / place / name for place in ("undisturbed", "killed"))
        assert one.read_bytes() == other.read_bytes()
