"""The bench measures the stages apart, and publishes no impossible figure."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from pipeline import bench, bench_figures, bench_stages
from pipeline.bench_process import Forked
from pipeline.config import check, load
from pipeline.errors import DeviceFailed, RunError, SetupError
from pipeline.graph.build import build
from stages import LOCATIONS
from tests.builders import ROOT

GRAPH = SimpleNamespace(slot_bytes=1 << 20, streams=[SimpleNamespace(name="clip")])


def test_frames_share_memory_that_is_allocated_once():
    first = bench_stages.blank_frame(GRAPH)
    first.put("a", [1, 2, 3])
    bench_stages._memory(1 << 20)[-1] = 7
    second = bench_stages.blank_frame(GRAPH)
    assert "a" not in second
    assert second._memory is first._memory
    assert second._memory[-1] == 7


class Model:
    """A stage whose work is nearly all inference."""

    def infer(self, frame):
        burn(0.02)
        return frame

    def process(self, frame):
        self.infer(frame)
        burn(0.002)


def burn(cpu_s):
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass


def test_inference_is_measured_inside_the_call_of_process():
    stage = Model()
    inference = bench._Inference(stage)
    start = time.process_time()
    stage.process(None)
    assert 0.02 <= inference.used_s < time.process_time() - start


def test_a_stage_without_infer_is_all_inference():
    stage = SimpleNamespace(process=lambda frame: burn(0.01))
    inference = bench._Inference(stage)
    start = time.process_time()
    stage.process(None)
    assert 0.01 <= inference.used_s <= time.process_time() - start


PARTS = {"capture": 1.0, "detector": 0.0}


@pytest.mark.parametrize("ratio", [0.3, 1.35, 2.0, 2.4])
def test_possible_figures_are_accepted(ratio):
    bench_figures.check_plausible(PARTS, ratio, cores=2)


@pytest.mark.parametrize(
    ("parts", "ratio", "message"),
    [
        (
            PARTS,
            2.41,
            r"plain is impossibly high \(found 2.41; 2 processors and 20% noise allow 2.4\)",
        ),
        (PARTS, 5.07, r"pipeline / plain is impossibly high \(found 5.07;"),
        (PARTS | {"detector": -0.01}, 1.0, r"part detector of X is negative \(found -0.01 ms\)"),
    ],
)
def test_impossible_figures_are_refused(parts, ratio, message):
    with pytest.raises(RunError, match=message):
        bench_figures.check_plausible(parts, ratio, cores=2)


def test_the_plain_loop_is_the_best_of_three_settings_of_the_model(monkeypatch):
    asked = []

    def sequential(graph, model, settings):
        asked.append(settings)
        return {1: 20.0, 2: 50.0, 3: 30.0}[len(asked)]

    monkeypatch.setattr(bench, "_sequential", sequential)
    raw = load(ROOT / "configs" / "bench.yaml")
    graph = build(check(raw, "bench.yaml"), LOCATIONS, "bench.yaml")
    forked = SimpleNamespace(receive=lambda: ({"capture": 1.0}, {}), end=lambda: None)
    monkeypatch.setattr(bench, "Forked", lambda work: forked)
    assert bench._alone(graph, bench.check(graph)) == ({"capture": 1.0}, {}, 50.0)
    ways = [(way.profile, way.spin) for way in asked]
    assert ways == [("latency", True), ("latency", False), ("throughput", False)]


def test_the_name_of_the_cpu_is_found():
    assert bench_figures.cpu_model().strip()


# --- processes of their own ---


def receive(work, **options):
    child = Forked(work)
    try:
        return child.receive(**options)
    finally:
        if not child._file.closed:
            child.end()


def fail(error):
    raise error


def test_reports_arrive_one_by_one():
    def work(report):
        report({"a": 1})
        report([2])

    child = Forked(work)
    assert [child.receive(), child.receive()] == [{"a": 1}, [2]]
    child.end()


@pytest.mark.parametrize(
    ("work", "kind", "text"),
    [
        (lambda _: fail(SetupError("no model")), SetupError, "^no model$"),
        (lambda _: fail(DeviceFailed("CUDA failure 719")), RunError, "^bench: CUDA failure 719$"),
        (lambda _: fail(ValueError("x")), RunError, "^bench: ValueError: x$"),
        (lambda _: os._exit(1), RunError, "^bench: the process of a measurement died$"),
    ],
)
def test_a_failed_measurement_gives_its_reason(work, kind, text):
    with pytest.raises(kind, match=text):
        receive(work)


def test_a_measurement_that_does_not_end_is_killed():
    with pytest.raises(RunError, match=r"did not end within 0\.1 s"):
        receive(lambda _: time.sleep(600), timeout_s=0.1)


@pytest.mark.live
def test_a_whole_bench_gives_possible_figures(tmp_path):
    path = tmp_path / "bench.json"
    command = [sys.executable, ROOT / "run.py", "bench", "--rounds", "1", "--json", path]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    assert figures["cpu"] in done.stdout
    assert min(figures["x_parts_ms"].values()) >= 0
    assert figures["ratio_to_plain"] <= figures["cores"] * (1 + bench_figures.NOISE)
