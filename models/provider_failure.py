"""Whether an error of a run is the fault of one image, or of the provider that runs the model.

The difference decides what happens next: an image is left out, and the next one is run; a failed
provider (a driver reset, no memory, a missing GPU) would fail for every image, so its process has
to be restarted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAILURES = frozenset({"EPFail", "DeviceReset", "EngineError"})
"""Exceptions that onnxruntime raises only for the provider."""

_DEVICE_FAULT = re.compile(
    r"\b(cuda|cublas|cublaslt|cudnn|cufft|curand|cusparse|nvrtc|driver|hip|miopen|rocblas)\w*"
    r"( runtime)? (failure|error)"
    r"|out[ _]of[ _](device[ _])?memory|failed to allocate memory|bad[ _]alloc"
    r"|device[ _](is )?(lost|removed|hung|reset|unavailable)",
    re.IGNORECASE,
)
"""Texts of the libraries below onnxruntime for faults of the device; needed because onnxruntime
raises RuntimeException and Fail for faults of the model too."""


def is_provider_failure(
    error: Exception,
    inputs: Mapping[str, NDArray[Any]],
    run: Callable[[Mapping[str, NDArray[Any]]], object],
    on_cpu: bool,
) -> bool:
    """Decide whether the provider is at fault for an error.

    Args:
        error: raised by onnxruntime while it ran `inputs`.
        inputs: inputs of the model, by name.
        run: runs the model again.
        on_cpu: whether the provider is the CPU. The CPU does not disappear: unless the type or
            text of the error states otherwise, the input is at fault. With any other provider,
            blank inputs are tried, which every model accepts: a GPU is warmed up with them.
    """
    if type(error).__name__ in FAILURES or isinstance(error, MemoryError):
        return True
    if _DEVICE_FAULT.search(str(error)):
        return True
    if on_cpu or type(error).__name__ == "InvalidArgument":
        return False
    try:
        run({name: np.zeros_like(array) for name, array in inputs.items()})
    except Exception:  # onnxruntime's exceptions have no common base
        return True
    return False
