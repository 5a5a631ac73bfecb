"""Loading a model is stopped after a time limit, and if that fails, the process ends."""

import os
import subprocess
import sys
import threading

import pytest

from models import load_limit, runtime
from models.errors import ContractError
from models.inspect import inspect
from models.runtime import Runtime
from tests.builders import ROOT
from tests.models.builders import save, save_endless

SHAPE = [1, 3, 64, 64]
OUTPUT = {"output0": (1, 6, 84)}


def test_a_load_within_the_limit_is_not_stopped():
    with load_limit.limited(600, pytest.fail, pytest.fail):
        pass
    assert threading.active_count() == 1


def test_a_load_that_stops_on_request_is_not_reported_as_stuck():
    asked = threading.Event()
    with load_limit.limited(0, asked.set, pytest.fail):
        assert asked.wait(60)


def test_a_load_that_does_not_stop_is_reported_as_stuck(monkeypatch):
    monkeypatch.setattr(load_limit, "STOP_S", 0)
    asked, stuck = threading.Event(), threading.Event()
    with load_limit.limited(0, asked.set, stuck.set):
        assert stuck.wait(60)
    assert asked.is_set()


def test_the_limit_grows_with_the_size_of_the_model(tmp_path):
    path = save(tmp_path / "m.onnx", SHAPE, OUTPUT)
    assert inspect(path).size_bytes == os.path.getsize(path)
    assert load_limit.limit_s(0) == 30
    assert load_limit.limit_s(1_000_000_000) == 130


def test_a_load_that_is_cancelled_is_refused_in_one_line(tmp_path, monkeypatch):
    class ModelLoadCanceled(Exception):  # noqa: N818 - onnxruntime's own
        pass

    def load(*_):
        raise ModelLoadCanceled("canceled due to user request")

    monkeypatch.setattr(runtime, "_load", load)
    contract = inspect(save(tmp_path / "m.onnx", SHAPE, OUTPUT))
    with pytest.raises(ContractError, match=r"m\.onnx: the model does not load within 30 s"):
        Runtime(contract, "cpu")


@pytest.mark.processes
def test_a_model_that_never_loads_ends_the_run_with_one_line(tmp_path):
    model = save_endless(tmp_path / "m.onnx")
    code = (
        "import sys; from models import load_limit; import run\n"
        "load_limit.MIN_LOAD_S = load_limit.STOP_S = 0.1\n"
        "sys.exit(run.main(sys.argv[1:]))"
    )
    options = ["--model", model, "--source", ROOT / "tests/clips/demo.mp4", "--sink", "null"]
    command = [sys.executable, "-c", code, *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert f"{model}: the model does not load within 0 s" in last
    assert "Traceback" not in done.stderr
