"""The model runs on the requested device, or the run does not start."""

import importlib.metadata
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from models import runtime, zoo
from models.card import load
from models.errors import ContractError, DeviceError
from models.inspect import inspect
from models.runtime import Runtime
from tests.models.builders import save, ssd_layers, yolox_layers


@pytest.fixture
def contract(tmp_path):
    rows = np.arange(3549 * 7, dtype=np.float32).reshape(1, 3549, 7)
    return inspect(
        save(tmp_path / "m.onnx", [1, 3, 416, 416], {"output": rows}, layers=yolox_layers(2))
    )


def no_gpu(monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: False)


class FakeSession:
    """Reports the providers of `loads`, and records the options it was made with."""

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
    """An onnxruntime that lists every provider and loads those of `FakeSession.loads`."""
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


def test_a_model_runs_on_the_cpu(contract):
    loaded = Runtime(contract, "cpu")
    assert loaded.provider == "CPUExecutionProvider"
    (out,) = loaded.run({"images": np.zeros(contract.input.shape, np.float32)})
    assert out[0, 3548, 6] == 3549 * 7 - 1


def test_a_read_only_input_is_accepted(contract):
    image = np.zeros(contract.input.shape, np.float32)
    image.flags.writeable = False
    Runtime(contract, "cpu").run({"images": image})


def test_outputs_are_in_the_order_of_the_contract(tmp_path):
    outputs = {"scores": np.full((1, 9, 2), 0.5), "boxes": np.full((1, 9, 4), 0.25)}
    layers = ssd_layers(2)
    path = save(tmp_path / "m.onnx", [1, 30, 30, 3], outputs, dtype="uint8", layers=layers)
    card = tmp_path / "card.yaml"
    card.write_text(
        "name: m\nfamily: ssd\nweights: {file: m.onnx}\n"
        "output: {outputs: {boxes: [x1, y1, x2, y2], scores: [scores]}}\n"
    )
    images = {"images": np.zeros((1, 30, 30, 3), np.uint8)}
    boxes, scores = Runtime(inspect(path, load(card)), "cpu").run(images)
    assert (boxes.shape, scores.shape) == ((1, 9, 4), (1, 9, 2))


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    data = bytearray(zoo.verify("ssdlite_mobilenet_v2").read_bytes())
    at = data.index(b"Concat")
    data[at : at + 6] = b"Comcat"
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ContractError, match=r"m\.onnx: onnxruntime cannot load it") as caught:
        Runtime(inspect(tmp_path / "m.onnx"), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "openvino"])
def test_a_device_without_its_provider_is_refused(contract, device, ort):
    ort.get_available_providers = lambda: ["CPUExecutionProvider"]
    with pytest.raises(
        DeviceError, match=rf"device {device}: .* \(found CPUExecutionProvider\); install "
    ):
        Runtime(contract, device)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "openvino"])
def test_a_device_that_silently_becomes_the_cpu_is_refused(
    contract, device, ort, tmp_path, monkeypatch
):
    monkeypatch.setenv("EYELINE_CACHE", str(tmp_path))
    with pytest.raises(DeviceError, match=f"device {device}: .* fell back to CPUExecutionProvider"):
        Runtime(contract, device)


def test_auto_chooses_the_best_device_that_loads(contract, ort, monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    monkeypatch.setattr(FakeSession, "loads", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    loaded = Runtime(contract)
    assert (loaded.provider, loaded.on_gpu) == ("CUDAExecutionProvider", True)


def test_auto_uses_the_cpu_and_keeps_the_reason_if_a_gpu_raises(contract, ort, monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    refusal = {"CUDAExecutionProvider": "CUDA failure 802: system not yet initialized"}
    monkeypatch.setattr(FakeSession, "refuses", refusal)
    loaded = Runtime(contract)
    assert loaded.provider == "CPUExecutionProvider"
    assert "CUDA failure 802" in loaded.passed_over[0]
    with pytest.raises(DeviceError, match=r"device cuda: .*does not load \(CUDA failure 802"):
        Runtime(contract, "cuda")


def test_auto_uses_the_cpu_if_the_gpu_does_not_load(contract, ort, monkeypatch):
    monkeypatch.setattr(runtime, "gpu_present", lambda: True)
    loaded = Runtime(contract)
    assert (loaded.provider, loaded.on_gpu) == ("CPUExecutionProvider", False)


def test_auto_after_a_crash_on_a_gpu_does_not_use_the_cpu(contract, ort, monkeypatch):
    for there in (True, False):  # the device may have disappeared with the crash
        monkeypatch.setattr(runtime, "gpu_present", lambda there=there: there)
        with pytest.raises(DeviceError, match="CUDAExecutionProvider does not load"):
            Runtime(contract, before="CUDAExecutionProvider")
    monkeypatch.setattr(FakeSession, "loads", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    assert Runtime(contract, before="CUDAExecutionProvider").on_gpu
    assert Runtime(contract, before="CPUExecutionProvider").provider == "CPUExecutionProvider"


def test_auto_does_not_try_a_gpu_on_a_machine_without_one(contract, ort, monkeypatch):
    no_gpu(monkeypatch)
    Runtime(contract)
    assert all("CUDAExecutionProvider" not in session.names for session in FakeSession.made)


@pytest.mark.parametrize(
    ("profile", "threads", "used"),
    [("throughput", None, 1), ("latency", None, 6), ("throughput", 3, 3), ("latency", 2, 2)],
)
def test_threads_follow_the_setting_the_profile_and_the_cores(
    contract, ort, profile, threads, used
):
    Runtime(contract, "cpu", profile, threads, cores=6)
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
    with pytest.raises(
        DeviceError, match=r"\(found onnxruntime and onnxruntime-gpu\); pip uninstall"
    ):
        Runtime(contract, "cpu")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install an onnxruntime on disk with the libraries of some providers."""

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
def test_a_device_that_is_installed_passes_the_check(installed, device):
    installed("cuda", "tensorrt")
    runtime.check_device(device)


@pytest.mark.parametrize(
    ("device", "package"), [("cuda", "onnxruntime-gpu"), ("openvino", "onnxruntime-openvino")]
)
def test_a_device_that_is_not_installed_fails_the_check_without_a_load(installed, device, package):
    installed()
    with pytest.raises(DeviceError, match=f"device {device}: .* install {package} in its place"):
        runtime.check_device(device)


def test_the_expected_device_is_the_gpu_only_with_its_package(monkeypatch):
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
def test_a_gpu_is_found_by_its_device_file(monkeypatch, devices, there):
    monkeypatch.setattr(runtime.os, "listdir", lambda path: devices)
    assert runtime.gpu_present() is there


def test_the_folder_of_engines_depends_on_model_and_version(contract, monkeypatch, tmp_path):
    monkeypatch.setenv("EYELINE_CACHE", str(tmp_path))
    first = runtime.engine_cache(contract, "1.31")
    assert first.parent == tmp_path / "tensorrt"
    assert contract.sha256[:16] in first.name
    assert first != runtime.engine_cache(contract, "1.32")
