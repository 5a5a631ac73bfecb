"""A failed provider is distinguished from a wrong input, and never replaced by another."""

import sys

import numpy as np
import pytest

from models.errors import ProviderError
from models.inspect import inspect
from models.runtime import Runtime
from tests.models.builders import save, yolox_layers

SHAPE = (1, 3, 416, 416)


class Session:
    """Replaces onnxruntime's session below its Python class: raises what `fails` returns."""

    def __init__(self, real, fails):
        self._real, self._fails = real, fails

    def run(self, names, inputs, options):
        error = self._fails(inputs)
        if error is not None:
            raise error
        return self._real.run(names, inputs, options)

    def __getattr__(self, name):
        return getattr(self._real, name)


@pytest.fixture
def loaded(tmp_path):
    rows = np.zeros((1, 3549, 7), np.float32)
    return Runtime(
        inspect(save(tmp_path / "m.onnx", SHAPE, {"output": rows}, layers=yolox_layers(2))), "cpu"
    )


def break_it(loaded, fails, provider="CUDAExecutionProvider"):
    """Let a loaded model fail as on a provider that failed after it was opened."""
    loaded.provider = provider
    loaded._session._fallback_providers = ["CPUExecutionProvider"]
    loaded._session._sess = Session(loaded._session._sess, fails)


def own(name, text):
    """Make one of onnxruntime's exceptions."""
    return getattr(sys.modules["onnxruntime.capi.onnxruntime_pybind11_state"], name)(text)


def run(loaded, value=1):
    return loaded.run({"images": np.full(SHAPE, value, np.float32)})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EPFail", "CUDA failure 719: unspecified launch failure"),
        ("EPFail", "TensorRT EP failed"),
        ("DeviceReset", "the device was reset"),
        ("EngineError", "hardware error"),
        ("Fail", "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0"),
        ("RuntimeException", "BFCArena: Failed to allocate memory for requested buffer of size 9"),
        ("RuntimeException", "CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR"),
        ("RuntimeException", "CUBLAS failure 14: CUBLAS_STATUS_INTERNAL_ERROR ; GPU=0"),
        ("RuntimeException", "std::bad_alloc"),
        ("Fail", "DXGI: device removed"),
    ],
)
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "CPUExecutionProvider"])
def test_a_provider_that_fails_is_not_replaced(loaded, name, text, provider):
    # Raised once: a second run, whose result could not be trusted, would succeed.
    errors = [own(name, text)]
    break_it(loaded, lambda _: errors.pop() if errors else None, provider)
    with pytest.raises(ProviderError, match=f"^{provider} failed while running m: ") as caught:
        run(loaded)
    assert text[:30] in str(caught.value)
    assert loaded._session.get_providers() == ["CPUExecutionProvider"]  # as it was opened here


def test_a_gpu_that_fails_for_blank_inputs_too_is_at_fault(loaded):
    break_it(loaded, lambda _: own("RuntimeException", "something new"))
    with pytest.raises(ProviderError, match="something new"):
        run(loaded)


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "CPUExecutionProvider"])
def test_an_input_that_a_model_cannot_take_is_no_fault_of_the_provider(loaded, provider):
    reshape = "Non-zero status code returned while running Reshape node. Name:'r'"

    def fails(inputs):
        return own("RuntimeException", reshape) if inputs["images"].any() else None

    break_it(loaded, fails, provider)
    with pytest.raises(Exception, match="running Reshape node") as caught:
        run(loaded)
    assert not isinstance(caught.value, ProviderError)
    run(loaded, value=0)


def test_an_input_of_another_shape_is_no_fault_of_the_provider(loaded):
    loaded.provider = "CUDAExecutionProvider"
    with pytest.raises(Exception, match="Got invalid dimensions") as caught:
        loaded.run({"images": np.zeros((1, 3, 8, 8), np.float32)})
    assert not isinstance(caught.value, ProviderError)


def test_the_error_of_a_provider_is_one_short_line(loaded):
    break_it(loaded, lambda _: own("EPFail", "CUDA failure\n\x1b[2J" + "x" * 9000))
    with pytest.raises(ProviderError) as caught:
        run(loaded)
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()
