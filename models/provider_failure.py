"""Whether a model that raises cannot take one picture, or the provider that runs it has failed.

The difference decides what happens next: a picture is left out and the next one is taken, while a
provider that has failed (a driver reset, no memory, a card that is gone) would fail for every
picture, so its process has to be restarted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAILURES = frozenset({"EPFail", "DeviceReset", "EngineError"})
"""Exceptions of onnxruntime that it raises for the provider alone."""

_OF_THE_DEVICE = re.compile(
    r"\b(cuda|cublas|cublaslt|cudnn|cufft|curand|cusparse|nvrtc|driver|hip|miopen|rocblas)\w*"
    r"( runtime)? (failure|error)"
    r"|out[ _]of[ _](device[ _])?memory|failed to allocate memory|bad[ _]alloc"
    r"|device[ _](is )?(lost|removed|hung|reset|unavailable)",
    re.IGNORECASE,
)
"""What libraries below onnxruntime write where the device is at fault; RuntimeException and Fail
carry such texts, and carry mistakes of the model too."""


def is_provider_failure(
    error: Exception,
    inputs: Mapping[str, NDArray[Any]],
    run: Callable[[Mapping[str, NDArray[Any]]], object],
    on_cpu: bool,
) -> bool:
    """Find out whether the provider is at fault for an error.

    Args:
        error: raised by onnxruntime as it ran `inputs`.
        inputs: of the model.
        run: runs the model once more.
        on_cpu: whether the provider is the CPU, which does not get lost: without a text or type
            that says otherwise, the input is at fault. With any other provider, blank inputs are
            tried, which every model takes: those of a GPU were warmed up with them.
    """
    if type(error).__name__ in FAILURES or isinstance(error, MemoryError):
        return True
    if _OF_THE_DEVICE.search(str(error)):
        return True
    if on_cpu or type(error).__name__ == "InvalidArgument":
        return False
    try:
        run({name: np.zeros_like(array) for name, array in inputs.items()})
    except Exception:  # onnxruntime's exceptions have no common base
        return True
    return False
