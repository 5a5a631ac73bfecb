"""The model runs where it was asked to run, or the run does not start."""

import importlib.metadata
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from models import runtime, zoo
from models.contract import inspect
from models.errors import ContractError, DeviceError
from models.runtime import Runtime
from tests.models.builders import save


@pytest.fixture
def contract(tmp_path):
    rows = np.arange(3549 * 7, dtype=np.float32).reshape(1, 3549, 7)
    return inspect(save(tmp_path / "m.onnx", [1, 3, 416, 416], {"output": rows}))


def no_gpu(monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: False)


class FakeSession:
    """Claims to run on what it is told, and keeps the options it was made with."""

    loads = ("CPUExecutionProvider",)
    refuses: dict = {}
    made: list = []

    def __init__(self, path, options, providers, enable_fallback):
        assert not enable_fallback
        self.names = [p if isinstance(p, str) else p[0] for p in providers]
        if self.names[0] in self.refuses:
            raise RuntimeError(self.refuses[self.names[0]])
        self.options = options
        FakeSession.made.append(self)

    def disable_fallback(self):
        pass

    def get_providers(self):
        return [name for name in self.names if name in self.loads]

    def get_inputs(self):
        return [SimpleNamespace(name="images")]


@pytest.fixture
def ort(monkeypatch):
    """An onnxruntime that offers every provider and loads those of `FakeSession.loads`."""
    real = runtime._import()
    fake = SimpleNamespace(
        __version__="1",
        SessionOptions=real.SessionOptions,
        InferenceSession=FakeSession,
        get_available_providers=lambda: list(runtime.PROVIDERS.values()),
        preload_dlls=lambda: None,
    )
    monkeypatch.setattr(runtime, "_import", lambda: fake)
    monkeypatch.setattr(FakeSession, "made", [])
    return fake


def test_runs_on_the_cpu(contract):
    loaded = Runtime(contract, "cpu")
    assert loaded.provider == "CPUExecutionProvider"
    (out,) = loaded.run({"images": np.zeros(contract.input.shape, np.float32)})
    assert out[0, 3548, 6] == 3549 * 7 - 1


def test_reads_an_input_that_must_not_be_written(contract):
    picture = np.zeros(contract.input.shape, np.float32)
    picture.flags.writeable = False
    Runtime(contract, "cpu").run({"images": picture})


def test_outputs_come_in_the_order_of_the_contract(tmp_path):
    outputs = {"scores": np.full((1, 9, 2), 0.5), "boxes": np.full((1, 9, 4), 0.25)}
    path = save(tmp_path / "m.onnx", [1, 30, 30, 3], outputs, dtype="uint8")
    boxes, scores = Runtime(inspect(path), "cpu").run(
        {"images": np.zeros((1, 30, 30, 3), np.uint8)}
    )
    assert (boxes.shape, scores.shape) == ((1, 9, 4), (1, 9, 2))


def test_a_damaged_file_is_one_line(tmp_path):
    data = bytearray(zoo.verify("ssdlite_mobilenet_v2").read_bytes())
    at = data.index(b"Concat")
    data[at : at + 6] = b"Comcat"
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ContractError, match=r"m\.onnx: onnxruntime cannot load it") as caught:
        Runtime(inspect(tmp_path / "m.onnx"), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "openvino"])
def test_a_device_that_is_not_installed_is_refused(contract, device, ort):
    ort.get_available_providers = lambda: ["CPUExecutionProvider"]
    with pytest.raises(DeviceError, match=f"device {device}: .* has CPUExecutionProvider only"):
        Runtime(contract, device)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "openvino"])
def test_a_device_that_silently_becomes_the_cpu_is_refused(
    contract, device, ort, tmp_path, monkeypatch
):
    monkeypatch.setenv("EYELINE_CACHE", str(tmp_path))
    with pytest.raises(DeviceError, match=f"device {device}: .* fell back to CPUExecutionProvider"):
        Runtime(contract, device)


def test_auto_takes_the_best_that_loads_and_says_which(contract, ort, monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    monkeypatch.setattr(FakeSession, "loads", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    loaded = Runtime(contract)
    assert (loaded.provider, loaded.on_gpu) == ("CUDAExecutionProvider", True)


def test_auto_goes_on_where_a_gpu_raises_and_keeps_the_reason(contract, ort, monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    refusal = {"CUDAExecutionProvider": "CUDA failure 802: system not yet initialized"}
    monkeypatch.setattr(FakeSession, "refuses", refusal)
    loaded = Runtime(contract)
    assert loaded.provider == "CPUExecutionProvider"
    assert "CUDA failure 802" in loaded.passed_over[0]
    with pytest.raises(DeviceError, match=r"device cuda: .*does not load \(CUDA failure 802"):
        Runtime(contract, "cuda")


def test_auto_goes_on_where_the_gpu_does_not_load(contract, ort, monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    loaded = Runtime(contract)
    assert (loaded.provider, loaded.on_gpu) == ("CPUExecutionProvider", False)


def test_after_a_crash_auto_does_not_make_a_gpu_the_cpu(contract, ort, monkeypatch):
    for there in (True, False):  # the device may be gone with the crash
        monkeypatch.setattr(runtime, "gpu_present", lambda there=there: there)
        with pytest.raises(DeviceError, match="CUDAExecutionProvider does not load"):
            Runtime(contract, before="CUDAExecutionProvider")
    monkeypatch.setattr(FakeSession, "loads", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert Runtime(contract, before="CUDAExecutionProvider").on_gpu
    assert Runtime(contract, before="CPUExecutionProvider").provider == "CPUExecutionProvider"


def test_auto_does_not_try_a_gpu_that_is_not_there(contract, ort, monkeypatch):
    no_gpu(monkeypatch)
    Runtime(contract)
    assert all("CUDAExecutionProvider" not in session.names for session in FakeSession.made)


@pytest.mark.parametrize(
    ("profile", "threads", "used"),
    [("throughput", None, 1), ("latency", None, 6), ("throughput", 3, 3), ("latency", 2, 2)],
)
def test_threads(contract, ort, monkeypatch, profile, threads, used):
    monkeypatch.setattr(runtime, "usable_cores", lambda: 6)
    Runtime(contract, "cpu", profile, threads)
    options = FakeSession.made[-1].options
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (used, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_two_distributions_are_refused(contract, monkeypatch):
    real = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata,
        "distribution",
        lambda name: object() if name == "onnxruntime-gpu" else real(name),
    )
    with pytest.raises(DeviceError, match="found onnxruntime and onnxruntime-gpu"):
        Runtime(contract, "cpu")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An onnxruntime on disk that has the libraries of the providers named."""

    def install(*providers):
        capi = tmp_path / "site" / "onnxruntime" / "capi"
        capi.mkdir(parents=True)
        (capi.parent / "__init__.py").write_text("raise AssertionError('it was imported')")
        for name in ("shared", *providers):
            (capi / f"libonnxruntime_providers_{name}.so").touch()
        monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_a_device_that_is_installed_may_be_asked_for(installed, device):
    installed("cuda", "tensorrt")
    runtime.check_device(device)


@pytest.mark.parametrize(
    ("device", "package"), [("cuda", "onnxruntime-gpu"), ("openvino", "onnxruntime-openvino")]
)
def test_a_device_that_is_not_installed_is_seen_before_anything_is_loaded(
    installed, device, package
):
    installed()
    with pytest.raises(DeviceError, match=f"device {device}: .* install {package} in its place"):
        runtime.check_device(device)


def test_the_expected_device(monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    monkeypatch.setattr(runtime, "_installed", lambda: ["onnxruntime-gpu"])
    assert runtime.expected_device("auto") == "cuda"
    monkeypatch.setattr(runtime, "_installed", lambda: ["onnxruntime"])
    assert runtime.expected_device("auto") == "cpu"
    no_gpu(monkeypatch)
    monkeypatch.setattr(runtime, "_installed", lambda: ["onnxruntime-gpu"])
    assert runtime.expected_device("auto") == "cpu"
    assert runtime.expected_device("tensorrt") == "tensorrt"


@pytest.mark.parametrize(
    ("devices", "there"),
    [
        (["null", "tty"], False),
        (["nvidiactl", "nvidia-uvm"], False),
        (["nvidia3"], True),
        (["dxg"], True),
    ],
    ids=["none", "a driver without a card", "the fourth card", "WSL"],
)
def test_whether_there_is_a_gpu(monkeypatch, devices, there):
    monkeypatch.setattr(runtime.os, "listdir", lambda path: devices)
    assert runtime.gpu_present() is there


def test_engines_are_cached_by_model_and_version(contract, monkeypatch, tmp_path):
    monkeypatch.setenv("EYELINE_CACHE", str(tmp_path))
    first = runtime.engine_cache(contract, "1.31")
    assert first.parent == tmp_path / "tensorrt"
    assert contract.sha256[:16] in first.name
    assert first != runtime.engine_cache(contract, "1.32")
