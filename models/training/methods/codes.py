"""CNN codes: the backbone as a fixed extractor of features, and a linear classifier on them.

The outputs of a network that was trained to classify, taken before its classifier, describe images
of other kinds too; a linear model on them needs few examples. Sources: Donahue et al., "DeCAF",
ICML 2014; Razavian et al., "CNN features off-the-shelf", CVPR workshops 2014 (codes of unit length,
a linear SVM, augmented copies).

No PyTorch is needed: onnxruntime computes the codes, scikit-learn the classifier, which is then
appended to the backbone's graph.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models import runtime
from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.training import method
from models.training.features import FeatureCache, Maps, Views, as_colours, read_input
from models.training.graph import IMAGES
from models.training.method import Job, ModelCard, Progress, Result
from models.training.packages import package
from models.training.tasks.classify import Classifies, true_classes

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Values of C that are tried; a higher one trusts the examples more."""
FOLDS = 5
"""Parts of the training images for cross-validation, at most."""
MAX_ITERATIONS = 1000
MAX_BYTES = 2 << 30
"""Limit of the codes that the classifier is fitted to, in memory."""
TEMPERATURES = np.geomspace(0.1, 100, 61)
"""Factors that are tried to make scores of the classifier's values (Guo et al., ICML 2017)."""


class Settings(method.Settings, frozen=True, kw_only=True):
    """Settings of CNN codes."""

    classifier: Literal["svm", "softmax"] = "svm"
    """Linear classifier: a support vector machine, or logistic regression."""
    pool: Annotated[int, Meta(ge=1, le=4)] = 2
    """Cells of each side into which the last map is pooled: 1 is the mean of all of it."""
    strength: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """C of the classifier; null: chosen by cross-validation on the training images."""
    views: Annotated[int, Meta(ge=1, le=1000)] = 6


class Codes(Classifies):
    """Classifies whole images by a linear model on the features of the backbone."""

    Settings = Settings

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._sklearn = package("sklearn")
        backbone = job.backbone
        cut = len(backbone.blocks) if job.settings.layers is None else job.settings.layers
        if not 1 <= cut <= len(backbone.blocks):
            raise TrainingError(
                f"layers: the backbone {backbone.name} has {len(backbone.blocks)} blocks "
                f"(found {cut}); set 1 to {len(backbone.blocks)}"
            )
        self._cut, self._tensor = cut, backbone.blocks[cut - 1].tensor
        piece = backbone.piece([self._tensor])
        self._run = runtime.open_graph(piece.SerializeToString(), job.threads)
        settings = job.settings
        self._views = Views(job.train, settings.augment, self.size, settings.views, job.seed)
        source = f"codes {backbone.sha256} {self._tensor} {settings.pool}"
        self._cache = FeatureCache(job.cache, self._views, source, self._codes)
        self._weight: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        """(C, D) of the classifier, with its temperature."""
        self._bias: NDArray[np.float32] = np.zeros(0, np.float32)

    def estimate_s(self) -> float:
        """Return about how many seconds all codes take; the classifier adds a few."""
        start = time.monotonic()
        next(iter(self._cache.fill()), None)
        rows = self._cache.computed
        each = (time.monotonic() - start) / max(1, rows)
        return each * (self._cache.missing + len(self.job.val)) + 2.0

    def fit(self) -> None:
        """Compute the codes, choose C by cross-validation, and fit the classifier."""
        for done in self._cache.fill():
            self.job.report(Progress("features", done, len(self._views)))
        rows = self._rows()
        codes = self._cache.rows(rows)[0].reshape(len(rows), -1)
        classes = true_classes(self.job.train)[rows // self._views.count]
        plain = rows % self._views.count == 0
        strength = self.settings.strength or self._choose(codes[plain], classes[plain])
        weight, bias = self._fit(codes, classes, strength)
        values = self._codes_of(self.job.val) @ weight.T + bias
        factor = _temperature(values, true_classes(self.job.val))
        self._weight, self._bias = (
            (weight * factor).astype(np.float32),
            (bias * factor).astype(np.float32),
        )

    def predict(self, images: Sequence[LabelledImage]) -> list[Result]:
        """Return the scores (C,) of each image."""
        return list(_softmax(self._codes_of(images) @ self._weight.T + self._bias))

    def outputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the scores (N, C) of inputs (N, size, size, 3) uint8 BGR."""
        codes = self._codes(pixels)[0].reshape(len(pixels), -1)
        return {"scores": _softmax(codes @ self._weight.T + self._bias)}

    def export(self, path: Path) -> ModelCard:
        """Append the classifier to the backbone's graph, and write it."""
        from models.training.append import append_linear

        piece = self.job.backbone.piece([self._tensor])
        pooling = pooling_matrix(*self._map_size(), self.settings.pool)
        model = append_linear(piece, self.size, self._tensor, pooling, self._weight, self._bias)
        path.write_bytes(model.SerializeToString())
        return self.card()

    def _rows(self) -> NDArray[np.intp]:
        """Return the rows to learn from: all views, or fewer where they take too much memory."""
        channels = self.job.backbone.blocks[self._cut - 1].channels
        each = 4 * channels * self.settings.pool**2 * len(self.job.train)
        views = min(self._views.count, max(1, MAX_BYTES // each))
        if views < self._views.count:
            self.notes.append(f"{views} of {self._views.count} views are used, to save memory")
        rows = np.arange(len(self._views))
        return np.asarray(rows[rows % self._views.count < views])

    def _map_size(self) -> tuple[int, int]:
        blank = np.zeros((1, 3, self.size, self.size), np.float32)
        height, width = self._run({IMAGES: blank})[0].shape[2:]
        return height, width

    def _codes(self, pixels: NDArray[np.uint8]) -> Maps:
        """Return the codes of inputs as maps (N, D, 1, 1): pooled, of unit length."""
        maps = self._run({IMAGES: as_colours(pixels)})[0]
        count, channels, height, width = maps.shape
        pooled = maps.reshape(count, channels, -1) @ pooling_matrix(
            height, width, self.settings.pool
        )
        codes = pooled.reshape(count, -1)
        length = np.sqrt(np.square(codes).sum(axis=1, keepdims=True))
        # Their mean square is 1 and not their sum, so that float16 holds them well.
        codes = codes / np.maximum(length, 1e-6) * np.sqrt(codes.shape[1])
        return [codes[:, :, None, None].astype(np.float32)]

    def _codes_of(self, images: Sequence[LabelledImage]) -> NDArray[np.float32]:
        found = [self._codes(read_input(image, self.size)[None])[0] for image in images]
        return np.concatenate(found).reshape(len(images), -1)

    def _choose(self, codes: NDArray[np.float32], classes: NDArray[np.intp]) -> float:
        """Return the C with the highest accuracy in cross-validation.

        Args:
            codes: (N, D) of the images themselves, without their other views.
            classes: (N,).
        """
        count = len(classes)
        folds = min(FOLDS, int(np.bincount(classes)[np.unique(classes)].min()))
        if folds < 2:
            self.notes.append("C is 1: a class has a single image, so that none can be held out")
            return 1.0
        # Images of a class go round the folds, so that each fold has every class.
        order = np.random.default_rng(self.job.seed).permutation(count)
        fold = np.empty(count, np.intp)
        for number in np.unique(classes):
            members = order[classes[order] == number]
            fold[members] = np.arange(len(members)) % folds
        right = dict.fromkeys(STRENGTHS, 0)
        for held in (fold == number for number in range(folds)):
            for strength in STRENGTHS:
                weight, bias = self._fit(codes[~held], classes[~held], strength)
                found = (codes[held] @ weight.T + bias).argmax(axis=1)
                right[strength] += int((found == classes[held]).sum())
        best = max(STRENGTHS, key=lambda strength: right[strength])
        shown = ", ".join(f"{s:g}: {n / count:.3f}" for s, n in right.items())
        self.notes.append(f"C is {best:g}, by cross-validation in {folds} parts ({shown})")
        self.charts["Accuracy in cross-validation over log10 of C"] = (
            [float(np.log10(s)) for s in STRENGTHS],
            {"accuracy": [n / count for n in right.values()]},
        )
        return best

    def _fit(
        self, codes: NDArray[np.float32], classes: NDArray[np.intp], strength: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weight (C, D) and bias (C,) of the classifier; rare classes count more."""
        # Codes of unit length; their mean says nothing of a class, and slows the solver down.
        middle = codes.mean(axis=0)
        codes = (codes - middle) / np.sqrt(codes.shape[1])
        if self.settings.classifier == "svm":
            model = package("sklearn.svm").LinearSVC(
                C=strength, class_weight="balanced", random_state=self.job.seed, dual=True,
                max_iter=MAX_ITERATIONS,
            )  # fmt: skip
        else:
            model = package("sklearn.linear_model").LogisticRegression(
                C=strength, class_weight="balanced", max_iter=2000
            )
        with warnings.catch_warnings():
            # A plane that is not quite at the optimum classifies as well.
            warnings.simplefilter("ignore", package("sklearn.exceptions").ConvergenceWarning)
            model.fit(codes, classes)
        count = len(self.job.labels)
        weight, bias = np.zeros((count, codes.shape[1])), np.full(count, -1e3)
        if len(model.classes_) == 2:  # one plane between two classes
            coefficients = np.concatenate([-model.coef_, model.coef_]) / 2
            offsets = np.concatenate([-model.intercept_, model.intercept_]) / 2
        else:
            coefficients, offsets = model.coef_, model.intercept_
        weight[model.classes_] = coefficients / np.sqrt(codes.shape[1])
        bias[model.classes_] = offsets - weight[model.classes_] @ middle
        return weight, bias


def pooling_matrix(height: int, width: int, cells: int) -> NDArray[np.float32]:
    """Return the matrix (height * width, cells * cells) that takes the mean of each cell.

    Cells overlap where they do not divide the map, as in PyTorch's adaptive pooling.
    """
    parts = []
    for length in (height, width):
        part = np.zeros((cells, length))
        for cell in range(cells):
            start, end = cell * length // cells, -(-(cell + 1) * length // cells)
            part[cell, start:end] = 1 / (end - start)
        parts.append(part)
    return np.ascontiguousarray(np.kron(parts[0], parts[1]).T, np.float32)


def _softmax(values: NDArray[Any]) -> NDArray[np.float32]:
    high = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(high / high.sum(axis=1, keepdims=True), np.float32)


def _temperature(values: NDArray[Any], truth: NDArray[np.intp]) -> float:
    """Return the factor of the values whose scores fit the validation images best."""
    if not len(truth):
        return 1.0
    own = np.arange(len(truth)), truth
    loss = [-np.log(np.maximum(_softmax(values * t)[own], 1e-6)).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(loss))])
