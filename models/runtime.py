"""Runs a model. Only this file imports onnxruntime, and only when a model is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from models import load_limit
from models.contract import Contract
from models.errors import ContractError, DeviceError, ProviderError
from models.files import cache_folder
from models.provider_failure import is_provider_failure
from models.text import shown

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
Profile = Literal["throughput", "latency"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Device -> onnxruntime's provider."""

DISTRIBUTIONS = {
    "onnxruntime": (),
    "onnxruntime-gpu": ("cuda", "tensorrt"),
    "onnxruntime-openvino": ("openvino",),
    "onnxruntime-directml": (),
    "onnxruntime-qnn": (),
    "onnxruntime-rocm": (),
}
"""Package that installs the module onnxruntime -> its devices beside the CPU."""

AUTO = ("cuda", "openvino", "cpu")
"""Devices that `auto` tries, best first. Not tensorrt: building its engine may take minutes."""

_INSTALL = "pip install onnxruntime, or onnxruntime-gpu[cuda,cudnn] for an NVIDIA GPU"

_SILENT = 4
"""onnxruntime's severity "fatal": its errors arrive as exceptions."""

_FILE_ERRORS = frozenset({"InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NoModel"})
"""Exceptions that onnxruntime raises for a model file, with any provider."""


class Runtime:
    """A loaded model.

    Args:
        contract: contract of the model.
        device: device that runs it; auto: the best that loads.
        profile: throughput: one CPU thread, to be run in several processes; latency: a thread per
            core.
        threads: CPU threads per image; None: by the profile.
        before: provider before a crash, which `auto` chooses again: a GPU that has failed must not
            become the CPU.
        spin: whether threads without work spin, which takes a core from other programs.
        abandon: called from another thread, with the reason, if onnxruntime does not return from
            loading the model; it has to end the process. Without it, this object waits.
        cores: CPU cores that this process may use.

    Raises:
        DeviceError: the device does not load, or onnxruntime is installed twice.
        ContractError: the file cannot be loaded, or does not match the contract.
    """

    def __init__(
        self,
        contract: Contract,
        device: Device = "auto",
        profile: Profile = "throughput",
        threads: int | None = None,
        before: str | None = None,
        spin: bool = False,
        abandon: Callable[[str], object] = lambda reason: None,
        cores: int = 1,
    ) -> None:
        self.contract = contract
        self._outputs = [output.name for output in contract.outputs]
        _check_distributions()
        ort = _import()
        threads = threads or (1 if profile == "throughput" else cores)
        self._session, self.provider, self.passed_over = _open(
            ort, contract, device, _options(ort, threads, spin), before, abandon
        )
        self._check()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Return the raw outputs, in the order of `contract.outputs`, with their batch dimension.

        The inputs are read in place, and the outputs are the runtime's own memory, not copies.

        Args:
            inputs: arrays by the names of the model's inputs.

        Raises:
            ProviderError: the provider failed, and would for every other input.
            Exception: any other, from onnxruntime: the model cannot take these inputs.
        """
        try:
            return self._run(inputs)
        except Exception as error:  # onnxruntime's exceptions have no common base
            on_cpu = self.provider == PROVIDERS["cpu"]
            if not is_provider_failure(error, inputs, self._run, on_cpu):
                raise
            raise ProviderError(
                f"{self.provider} failed while running {shown(self.contract.name, 60)}: "
                f"{shown(error, 130)}"
            ) from None

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        outputs: Sequence[NDArray[Any]] = self._session.run(self._outputs, dict(inputs))
        return outputs

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU runs the model."""
        return self.provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"])

    def _check(self) -> None:
        """Check the loaded model against the contract."""
        names = {tensor.name for tensor in self._session.get_inputs()}
        if self.contract.input.name not in names:
            raise ContractError(
                f"{self.contract.path}: the file has changed since it was checked (found inputs "
                f"{', '.join(sorted(names))}, expected {self.contract.input.name!r}); start again"
            )


def open_graph(
    model: bytes, threads: int = 1
) -> Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]:
    """Load a graph of our own making on the CPU, and return the function that runs it.

    Args:
        model: the ONNX file.
        threads: CPU threads.

    Raises:
        ContractError: onnxruntime cannot load it.
        DeviceError: onnxruntime is missing, or installed twice.
    """
    _check_distributions()
    ort = _import()
    try:
        session = ort.InferenceSession(
            model, _options(ort, threads, False), providers=[PROVIDERS["cpu"]]
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ContractError(f"graph: onnxruntime cannot load it: {_one_line(error)}") from None
    return lambda inputs: list(session.run(None, dict(inputs)))


def expected_device(device: Device) -> Device:
    """Return the device that `device` will most likely become; nothing is loaded."""
    if device != "auto":
        return device
    return "cuda" if gpu_present() and "onnxruntime-gpu" in _installed() else "cpu"


def check_device(device: Device) -> None:
    """Refuse a device that cannot work; nothing is loaded, so other faults appear on loading.

    Raises:
        DeviceError: onnxruntime is missing, installed twice, or has no provider for `device`.
    """
    import importlib.util

    _check_distributions()
    found = importlib.util.find_spec("onnxruntime")
    if found is None:
        raise DeviceError(f"onnxruntime is not installed; {_INSTALL}")
    if device in ("auto", "cpu"):
        return
    for folder in found.submodule_search_locations or ():
        if any(Path(folder, "capi").glob(f"*onnxruntime_providers_{device}.*")):
            return
    raise DeviceError(
        f"device {device}: the installed onnxruntime has no {PROVIDERS[device]}; install "
        f"{_package(device)} in its place, or set device: auto"
    )


def gpu_present() -> bool:
    """Return whether this machine has an NVIDIA GPU: a card, WSL's bridge to one, or a Jetson's."""
    try:
        devices = os.listdir("/dev")
    except OSError:
        return False
    return any(re.fullmatch(r"nvidia\d+|dxg|nvhost-gpu|nvgpu", name) for name in devices)


def _installed() -> list[str]:
    import importlib.metadata

    found = []
    for name in DISTRIBUTIONS:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def _check_distributions() -> None:
    found = _installed()
    if len(found) > 1:
        raise DeviceError(
            f"onnxruntime: several distributions overwrite each other's files (found "
            f"{' and '.join(found)}); pip uninstall {' '.join(found)}, then install one"
        )


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported ({_one_line(error)}); {_INSTALL}"
        ) from None
    onnxruntime.set_default_logger_severity(_SILENT)
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _open(
    ort: Any,
    contract: Contract,
    device: Device,
    options: Any,
    before: str | None,
    abandon: Callable[[str], object],
) -> tuple[Any, str, tuple[str, ...]]:
    """Return a session, the provider that runs it, and why better ones do not."""
    available = ort.get_available_providers()
    wanted = [d for d in (AUTO if device == "auto" else (device,)) if PROVIDERS[d] in available]
    if device == "auto" and not gpu_present() and "cuda" in wanted:
        wanted.remove("cuda")  # trying costs half a second
    if device == "auto" and before in available:
        wanted = [name for name in AUTO if PROVIDERS[name] == before] or wanted
    if not wanted:
        raise DeviceError(
            f"device {device}: the installed onnxruntime has no {PROVIDERS[device]} (found "
            f"{', '.join(available)}); install {_package(device)}, or set device: auto"
        )
    passed_over: list[str] = []
    for name in wanted:
        if name in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds CUDA libraries installed by pip
        try:
            session = _session(ort, contract, _providers(ort, name, contract), options, abandon)
            provider = str(session.get_providers()[0])
        except ContractError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            if name == "cpu" or type(error).__name__ in _FILE_ERRORS:
                raise ContractError(
                    f"{contract.path}: onnxruntime cannot load it: {_one_line(error)}"
                ) from None
            why = shown(error, 130)
        else:
            # If a provider does not load, onnxruntime continues without it and reports nothing.
            if provider == PROVIDERS[name]:
                return session, provider, tuple(passed_over)
            why = f"onnxruntime fell back to {provider}"
        passed_over.append(f"{PROVIDERS[name]} does not load ({why})")
    raise DeviceError(
        f"device {device}: {', '.join(passed_over)}; check the driver and its libraries, or set "
        "device: auto"
    )


def _options(ort: Any, threads: int, spin: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _session(
    ort: Any,
    contract: Contract,
    providers: list[Any],
    options: Any,
    abandon: Callable[[str], object],
) -> Any:
    if providers[0][0] == PROVIDERS["tensorrt"]:  # building its engine may take minutes
        return _load(ort, contract, providers, options)
    limit_s = load_limit.limit_s(contract.size_bytes)
    late = (
        f"{contract.path}: the model does not load within {limit_s:.0f} s; simplify it, or export "
        "it again"
    )
    # Not every onnxruntime can be asked to stop.
    cancel = getattr(options, "set_load_cancellation_flag", lambda wish: None)
    try:
        with load_limit.limited(limit_s, lambda: cancel(True), lambda: abandon(shown(late))):
            return _load(ort, contract, providers, options)
    except Exception as error:  # onnxruntime's exceptions have no common base
        if type(error).__name__ != "ModelLoadCanceled":
            raise
        raise ContractError(late) from None


def _load(ort: Any, contract: Contract, providers: list[Any], options: Any) -> Any:
    # With its fallback, onnxruntime would replace a failed provider by the CPU, on creation and in
    # the middle of a run, and report nothing.
    session = ort.InferenceSession(
        contract.path, options, providers=providers, enable_fallback=False
    )
    session.disable_fallback()
    return session


def _providers(ort: Any, name: str, contract: Contract) -> list[Any]:
    cpu, cuda = PROVIDERS["cpu"], PROVIDERS["cuda"]
    if name == "tensorrt":
        cache = engine_cache(contract, ort.__version__)
        cache.mkdir(parents=True, exist_ok=True)
        options = {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
        return [(PROVIDERS[name], options), cuda, cpu]
    if name == "openvino":
        # Its default is bfloat16 where the CPU has it, which moves boxes and scores.
        return [(PROVIDERS[name], {"device_type": "CPU", "precision": "FP32"}), cpu]
    return [PROVIDERS[name]] if name == "cpu" else [PROVIDERS[name], cpu]


def engine_cache(contract: Contract, version: str) -> Path:
    """Return the folder of TensorRT engines for this model, GPU, driver and onnxruntime."""
    gpus = Path("/proc/driver/nvidia")
    texts = [path.read_text() for path in sorted(gpus.glob("gpus/*/information"))[:1]]
    model = re.search(r"Model:\s*(.+)", texts[0]) if texts else None
    try:
        driver = re.search(r"\b\d+\.\d+(\.\d+)?\b", (gpus / "version").read_text())
    except OSError:
        driver = None
    parts = (
        contract.sha256[:16],
        model[1] if model else "gpu",
        f"driver{driver[0] if driver else ''}",
        f"ort{version}",
    )
    return cache_folder() / "tensorrt" / re.sub(r"[^\w.-]+", "_", "-".join(parts))


def _package(device: str) -> str:
    return next((d for d, has in DISTRIBUTIONS.items() if device in has), "onnxruntime")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
