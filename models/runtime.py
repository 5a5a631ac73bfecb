"""Runs a model: the one file that imports onnxruntime, and only when a model is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from models.contract import Contract
from models.errors import ContractError, DeviceError, ModelError

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
Profile = Literal["throughput", "latency"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

DISTRIBUTIONS = {
    "onnxruntime": (),
    "onnxruntime-gpu": ("cuda", "tensorrt"),
    "onnxruntime-openvino": ("openvino",),
    "onnxruntime-directml": (),
    "onnxruntime-qnn": (),
    "onnxruntime-rocm": (),
}
"""Packages that all install the module onnxruntime -> what each has beside the CPU."""

AUTO = ("cuda", "openvino", "cpu")
"""What `auto` tries, best first. Not tensorrt: it may build its engine for minutes."""

_INSTALL = "pip install onnxruntime, or onnxruntime-gpu[cuda,cudnn] for an NVIDIA GPU"

_SILENT = 4
"""onnxruntime's severity "fatal": what it has to say comes to us as exceptions."""


class Runtime:
    """A loaded model.

    Args:
        contract: of the model.
        device: where to run it; auto: the best that loads.
        profile: throughput: one thread, replicas do the rest; latency: all cores.
        threads: of the CPU, for one picture; None: by the profile.

    Raises:
        DeviceError: the device asked for does not load, or onnxruntime is installed twice.
        ContractError: the file cannot be loaded, or is not what the contract says.
    """

    def __init__(
        self,
        contract: Contract,
        device: Device = "auto",
        profile: Profile = "throughput",
        threads: int | None = None,
    ) -> None:
        self.contract = contract
        self._outputs = [output.name for output in contract.outputs]
        _check_distributions()
        ort = _import()
        self._session, self.provider = _open(ort, contract, device, profile, threads)
        self._check()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """The outputs, in the order of `contract.outputs`, with their batch axis.

        The inputs are read in place, and the outputs are the runtime's own memory, not copies.
        """
        outputs: Sequence[NDArray[Any]] = self._session.run(self._outputs, dict(inputs))
        return outputs

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU does the work."""
        return self.provider in (PROVIDERS["cuda"], PROVIDERS["tensorrt"])

    def _check(self) -> None:
        """Hold the loaded model against the contract."""
        names = {tensor.name for tensor in self._session.get_inputs()}
        if self.contract.input.name not in names:
            raise ContractError(
                f"{self.contract.path}: expected an input {self.contract.input.name!r}, "
                f"found {', '.join(sorted(names))}: the file was changed after it was checked"
            )


def expected_device(device: Device) -> Device:
    """Where `device` will most likely run, told without loading anything."""
    if device != "auto":
        return device
    return "cuda" if gpu_present() and "onnxruntime-gpu" in _installed() else "cpu"


def check_device(device: Device) -> None:
    """Refuse, without loading anything, what cannot work; the rest is seen when a model is loaded.

    Raises:
        DeviceError: onnxruntime is missing, installed twice, or has not what `device` needs.
    """
    import importlib.util

    _check_distributions()
    found = importlib.util.find_spec("onnxruntime")
    if found is None:
        raise DeviceError(f"onnxruntime is not installed: {_INSTALL}")
    if device in ("auto", "cpu"):
        return
    for folder in found.submodule_search_locations or ():
        if any(Path(folder, "capi").glob(f"*onnxruntime_providers_{device}.*")):
            return
    raise DeviceError(
        f"device {device}: expected an onnxruntime with {PROVIDERS[device]}, found one without: "
        f"install {_package(device)} in its place, or use device: auto"
    )


def gpu_present() -> bool:
    """Whether this machine shows an NVIDIA GPU: a card, WSL's bridge to one, or a Jetson's."""
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
            f"onnxruntime: expected one of its distributions, found {' and '.join(found)}, which "
            f"overwrite each other's files: pip uninstall {' '.join(found)}, then install one"
        )


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"onnxruntime cannot be imported ({_line(error)}): {_INSTALL}") from None
    onnxruntime.set_default_logger_severity(_SILENT)
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _open(
    ort: Any, contract: Contract, device: Device, profile: Profile, threads: int | None
) -> tuple[Any, str]:
    """A session and the provider it truly runs on."""
    available = ort.get_available_providers()
    wanted = [d for d in (AUTO if device == "auto" else (device,)) if PROVIDERS[d] in available]
    if device == "auto" and not gpu_present() and "cuda" in wanted:
        wanted.remove("cuda")  # trying costs half a second
    if not wanted:
        raise DeviceError(
            f"device {device}: expected {PROVIDERS[device]}, found an onnxruntime that has "
            f"{', '.join(available)} only: install {_package(device)}, or use device: auto"
        )
    for name in wanted:
        if name in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA libraries that pip has installed
        session = _session(ort, contract, _providers(ort, name, contract), profile, threads)
        provider = str(session.get_providers()[0])
        # Where a provider does not load, onnxruntime goes on without it and does not say so.
        if provider == PROVIDERS[name]:
            return session, provider
    if device == "auto":
        return session, provider
    raise DeviceError(
        f"device {device}: {PROVIDERS[device]} does not load and onnxruntime fell back to "
        f"{provider}: check the driver and the libraries it needs, or use device: auto"
    )


def _session(
    ort: Any,
    contract: Contract,
    providers: list[Any],
    profile: Profile,
    threads: int | None,
) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or (1 if profile == "throughput" else usable_cores())
    # A thread that spins takes the core from another stage.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(contract.path, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ContractError(
            f"{contract.path}: onnxruntime cannot load it: {_line(error)}"
        ) from None


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
    """Folder of the TensorRT engines built for this model, GPU, driver and onnxruntime."""
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


class NoCacheError(ModelError):
    """There is no place for files that are kept from run to run."""


def cache_folder() -> Path:
    """Where weights and engines are kept: EYELINE_CACHE, or the user's cache folder.

    Raises:
        NoCacheError: the user has no home directory.
    """
    own = os.environ.get("EYELINE_CACHE")
    if own:
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(caches or Path.home() / ".cache") / "eyeline"
    except RuntimeError:
        raise NoCacheError(
            f"user {os.getuid()} has no home directory for a cache; set HOME or EYELINE_CACHE"
        ) from None


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _package(device: str) -> str:
    return next((d for d, has in DISTRIBUTIONS.items() if device in has), "onnxruntime")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
