"""The course of a training, from the examples to the files of the model, for all methods."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.training.card import write_card
from models.training.data import Prepared
from models.training.export import verify
from models.training.features import read_input
from models.training.method import Method, Result
from models.training.record import Record

TIMED_S = 5.0
"""CPU time after which an exported model is not timed any further."""

_FLOATS = (1, 10, 16)
"""ONNX's numbers of float32, float16 and bfloat16."""


class Finished(msgspec.Struct):
    """A training that is over."""

    record: Record
    method: Any
    prepared: Any
    results: dict[str, list[Result]]
    """Part -> result of each image, of val and test."""
    model: Path
    card: Path


def run(
    method: Method,
    prepared: Prepared,
    record: Record,
    about: Mapping[str, str],
) -> Finished:
    """Train, measure, export and verify.

    Args:
        method: the method, made for its job.
        prepared: the examples.
        record: the facts that are known before; it is completed.
        about: origin and licence, for the card.

    Raises:
        TrainingError: it cannot be trained, or the exported model differs from the network.
    """
    job = method.job
    job.folder.mkdir(parents=True, exist_ok=True)
    start, cpu = time.monotonic(), time.process_time()
    method.fit()
    record.train_s, record.cpu_s = time.monotonic() - start, time.process_time() - cpu
    results = {"val": method.predict(prepared.val)}
    method.thresholds = method.choose_thresholds(prepared.val, results["val"])
    record.thresholds = dict(method.thresholds)
    record.validation = dict(method.measure(prepared.val, results["val"]))
    results["test"] = method.predict(prepared.test)
    record.test = dict(method.measure(prepared.test, results["test"]))
    simple = method.baseline(prepared.test, results["test"])
    if simple:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in simple.items())
        record.notes.append(f"on the test images, for comparison: {shown}")
    model = job.folder / f"{record.name}.onnx"
    own = method.export(model)
    pixels = [read_input(image, method.size)[None] for image in prepared.val[: method.held_out]]
    inputs = [method.inputs(one) for one in pixels]
    record.difference = verify(model, method.outputs, inputs, method.difference)
    record.image_ms = time_of(model, method, pixels)
    record.size_bytes, record.parameters = model.stat().st_size, parameters_of(model)
    record.curves, record.notes = method.curves, [*record.notes, *method.notes]
    record.best_epoch = method.best_epoch
    record.charts = {
        title: (list(across), {name: list(up) for name, up in lines.items()})
        for title, (across, lines) in method.charts.items()
    }
    card = write_card(model, record, own, method.size, about, inputs[0])
    for end, other in method.further_cards().items():
        write_card(model, record, other, method.size, about, inputs[0], f"-{end}")
    return Finished(record, method, prepared, results, model, card)


def versions() -> dict[str, str]:
    """Return the versions of the packages on which a result depends."""
    import importlib.metadata

    found = {"python": platform.python_version()}
    for name in ("numpy", "onnx", "onnxruntime", "scikit-learn", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def parameters_of(model: Path) -> int:
    """Return how many numbers of a model were learned, or could have been."""
    import onnx

    graph = onnx.load(model).graph
    return sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type in _FLOATS)


def time_of(model: Path, method: Method, inputs: Sequence[NDArray[np.uint8]]) -> float:
    """Return the median CPU time in ms of a model for one image, with one thread.

    The time includes that of the further inputs which the family makes of an image.
    """
    from models import runtime

    run_model = runtime.open_graph(model.read_bytes())
    run_model(method.inputs(inputs[0]))
    times: list[float] = []
    for pixels in (*inputs, *inputs):
        start = time.process_time()
        run_model(method.inputs(pixels))
        times.append(time.process_time() - start)
        if sum(times) > TIMED_S:
            break
    return float(np.median(times)) * 1e3
