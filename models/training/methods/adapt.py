"""Mid-level transfer: two new layers on the frozen backbone, trained on patches of the images.

A network that has learned from pictures of one object each is adapted to scenes of many objects: it
is trained on patches labelled by what they hold, and the scores of all patches of an image name its
classes and show where they are, although no layer has learned a box. Source: Oquab, Bottou, Laptev
and Sivic, CVPR 2014; its layers C1 to FC7 are the backbone, up to the mean of its last map.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.training import method
from models.training.augment import Fraction
from models.training.export import export
from models.training.extraction import extractor
from models.training.features import Extract, FeatureCache, Maps, Views
from models.training.graph import IMAGES
from models.training.loop import Loop, Plan
from models.training.method import Job, ModelCard, Progress
from models.training.onnx_net import OnnxNet
from models.training.patch_scores import PowerSums, Scanner, Summing
from models.training.patches import (
    MapForm,
    Patches,
    Rule,
    draw_examples,
    label_views,
    make_grid,
)
from models.training.tasks.classify import weights_of
from models.training.tasks.score_maps import Located, MapsScores, choose_level

POWERS = (3.0, 5.0, 2.0, 1.0, 0.5, 1 / 3)
"""Values of k that are tried; of equal ones the first is taken."""
FORMS: tuple[MapForm, ...] = ("window", "sum", "mean")
"""Forms of the score map that are tried; of equal ones the first is taken."""


class Settings(method.Settings, frozen=True, kw_only=True):
    """Settings of mid-level transfer."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = 512
    views: Annotated[int, Meta(ge=1, le=1000)] = 2
    patch_px: Annotated[int, Meta(ge=32, le=512, multiple_of=32)] = 128
    """Side of a patch in pixels, as the backbone sees it."""
    ratios: tuple[Annotated[float, Meta(ge=1, le=16)], ...] = (
        1.0, 1.3, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0,
    )  # fmt: skip
    """Side of the image over the side of a patch, of each scale."""
    patches: Annotated[int, Meta(ge=1, le=5000)] = 500
    """Patches of an image to train on, at most, before the background is thinned out."""
    test_patches: Annotated[int, Meta(ge=1, le=5000)] = 200
    """Patches of an image that the exported model scores, at most. Each costs some 1.7 ms of CPU
    with MobileNetV2: 0.35 s for 200, 0.9 s for 500 as in the paper."""
    covered: Fraction = 0.6
    """Part of an object that a patch of its class holds at least."""
    filled: Fraction = 0.2
    """Part of such a patch that the object fills at least."""
    other: Fraction = 0.3
    """Part of any other object that it holds at most."""
    background: Fraction = 0.1
    """Part of the background patches that is trained on."""
    hidden: Annotated[int, Meta(ge=1, le=8192)] = 512
    """Outputs of the first new layer."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    cells: Annotated[int, Meta(ge=1, le=128)] = 24
    """Cells along each side of the score map."""
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 20
    batch: Annotated[int, Meta(ge=1, le=8192)] = 256
    """Patches of a step."""
    rate: Annotated[float, Meta(gt=0, le=1)] = 1e-3
    """Learning rate."""
    decay: Annotated[float, Meta(ge=0, le=1)] = 1e-2
    """Weight decay."""
    patience: Annotated[int, Meta(ge=1, le=10_000)] = 6
    """Epochs without a better figure on the validation images after which training ends."""


class Adaptation(nn.Sequential):
    """The two new layers, FCa and FCb: features (N, D) to logits of background and the classes."""

    def __init__(self, channels: int, classes: int, settings: Settings) -> None:
        super().__init__(
            nn.Linear(channels, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, 1 + classes),
        )


class Adapt(MapsScores):
    """Names the classes of an image and maps them, by the scores of patches."""

    Settings = Settings

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings, backbone = job.settings, job.backbone
        cut = len(backbone.blocks) if settings.layers is None else settings.layers
        if not 1 <= cut <= len(backbone.blocks):
            raise TrainingError(
                f"layers: the backbone {backbone.name} has {len(backbone.blocks)} blocks "
                f"(found {cut}); set 1 to {len(backbone.blocks)}"
            )
        self._block = backbone.blocks[cut - 1]
        maps_of = extractor(backbone, [self._block.tensor], job)
        self._extract: Extract = lambda pixels: [maps_of(pixels)[0].mean((2, 3), keepdims=True)]
        self._grid = make_grid(settings.ratios, settings.test_patches, settings.patch_px)
        self._prepare()
        self._layers = Adaptation(self._block.channels, len(job.labels), settings).to(job.device)
        self._summing = Summing()
        self._steps = max(1, -(-len(self._labels) // settings.batch))
        self._loop = Loop(
            self._layers,
            [list(self._layers.parameters())],
            self._plan(),
            job.folder / "checkpoint.npz",
            job.device,
        )

    def _prepare(self) -> None:
        """Label the patches of all views, and say which features are needed."""
        job, settings = self.job, self.settings
        rule = Rule(settings.covered, settings.filled, settings.other)
        views = Views(job.train, settings.augment, self.size, settings.views, job.seed)
        grid = make_grid(settings.ratios, settings.patches, settings.patch_px)
        labels = label_views(views, grid, rule)
        rows = draw_examples(labels, settings.background, job.seed)
        self._labels = labels.reshape(-1)[rows]
        self._counts = np.bincount(self._labels, minlength=1 + len(job.labels))
        if not self._counts[1:].any():
            raise TrainingError(
                f"patches: none holds most of an object (found {len(rows)} of background in "
                f"{len(job.train)} images); set other `ratios`, or a smaller `covered` or `filled`"
            )
        self._cache = self._cached(Patches(views, grid, rows))
        # Of validation images all patches are scored, and those drawn as in training are compared.
        val = Views(job.val, settings.augment, self.size, 1, job.seed)
        labels = label_views(val, self._grid, rule)
        self._val_rows = draw_examples(labels, settings.background, job.seed)
        self._val_labels = labels.reshape(-1)[self._val_rows]
        self._val_cache = self._cached(Patches(val, self._grid))

    def _cached(self, patches: Patches) -> FeatureCache:
        source = f"mean {self.job.backbone.sha256} {self._block.tensor}"
        return FeatureCache(self.job.cache, patches, source, self._extract)

    def _plan(self) -> Plan:
        settings = self.settings
        content = hashlib.sha256(self._cache.key.encode() + msgspec.json.encode(settings))
        content.update(f"{self.job.threads} {self.job.device}".encode())
        return Plan(
            settings.epochs, self._steps, (settings.rate,), (0.0,), settings.decay,
            settings.patience, self.job.seed, content.hexdigest(),
        )  # fmt: skip

    def estimate_s(self) -> float:
        """Return about how many seconds `fit` takes: of a few patches and steps, times all."""
        start = time.monotonic()
        for _ in zip(range(4), self._cache.fill(), strict=False):
            pass
        rows = self._cache.computed
        missing = self._cache.missing + len(self.job.val) * len(self._grid.squares)
        features = 0.0 if not rows else (time.monotonic() - start) / rows * missing
        known = np.resize(np.arange(max(1, rows)), self.settings.batch)
        step = self._loop.time_step(lambda *_: self._terms(known))
        return float(features + self.settings.epochs * step * self._steps)

    def fit(self) -> None:
        """Compute the missing features, train the new layers, then choose k and the map."""
        job = self.job
        total = len(self._labels) + len(job.val) * len(self._grid.squares)
        for done in self._cache.fill():
            job.report(Progress("features", done, total))
        for done in self._val_cache.fill():
            job.report(Progress("features", len(self._labels) + done, total))
        steps = self.settings.epochs * self._steps
        self._loop.run(
            lambda epoch, number: self._terms(self._rows(epoch, number)),
            self._patch_figures,
            lambda figures: tuple(figures.values()),
            lambda done, text: job.report(Progress("training", done, steps, text)),
        )
        self.curves, self.best_epoch = self._loop.curves, self._loop.best_epoch
        self._choose_summing()
        self._write_notes()

    def predict(self, images: Sequence[LabelledImage]) -> list[Located]:
        """Return the result of each image."""
        views = Views(images, self.settings.augment, self.size, 1, self.job.seed)
        # Those of the validation images are there already.
        cache = self._cached(Patches(views, self._grid))
        for done in cache.fill():
            self.job.report(Progress("measuring", done, len(images) * len(self._grid.squares)))
        return self._located(self._image_scores(cache, len(images)), self._summing)

    def outputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs of PyTorch for inputs (N, size, size, 3) uint8 BGR."""
        with torch.no_grad():
            scores, maps = self._scanner()(torch.from_numpy(pixels).to(self.job.device))
        return {"scores": scores.cpu().numpy(), "score_map": maps.cpu().numpy()}

    def export(self, path: Path) -> ModelCard:
        """Write the network that takes the patches of an image, and sums their scores up."""
        scanner: Any = self._scanner().cpu()
        export(scanner, self.size, ("scores", "score_map"), path)
        self._layers.to(self.job.device)
        return self.card()

    def _scanner(self) -> Scanner:
        net = OnnxNet(self.job.backbone.model, [IMAGES], [self._block.tensor])
        sums = PowerSums(self._grid, self.settings.cells, self._summing)
        scanner = Scanner(net, self._layers, self._grid, sums)
        scanner.to(self.job.device).eval()
        return scanner

    def _rows(self, epoch: int, number: int) -> NDArray[np.intp]:
        """Return the examples of a step: each once in an epoch."""
        order = np.random.default_rng((self.job.seed, 1, epoch)).permutation(len(self._labels))
        batch = self.settings.batch
        return np.asarray(order[number * batch : (number + 1) * batch])

    def _terms(self, rows: NDArray[np.intp]) -> Mapping[str, Tensor]:
        """Return the cross entropy of the patches; rare classes count more."""
        device = self.job.device
        codes = torch.from_numpy(self._cache.rows(rows)[0]).to(device).flatten(1)
        labels = torch.from_numpy(self._labels[rows]).to(device)
        weights = torch.from_numpy(weights_of(self._counts)).to(device)
        return {"class": functional.cross_entropy(self._layers(codes), labels, weights)}

    def _scores(self, maps: Maps) -> NDArray[np.float32]:
        """Return the scores (N, 1 + C) of patches from their features."""
        self._layers.eval()
        with torch.no_grad():
            codes = torch.from_numpy(maps[0]).to(self.job.device).flatten(1)
            scores: NDArray[np.float32] = torch.softmax(self._layers(codes), 1).cpu().numpy()
        return scores

    def _image_scores(self, cache: FeatureCache, images: int) -> NDArray[np.float32]:
        """Return the scores (N, M, 1 + C) of all patches of images."""
        each = len(self._grid.squares)
        rows = np.arange(each)
        parts = [self._scores(cache.rows(rows + each * number)) for number in range(images)]
        return np.stack(parts)

    def _patch_figures(self) -> Mapping[str, float]:
        """Return figures of the patches of the validation images, each class counting alike."""
        scores = self._scores(self._val_cache.rows(self._val_rows))
        own = np.maximum(scores[np.arange(len(scores)), self._val_labels], 0.01)
        right = scores.argmax(axis=1) == self._val_labels
        classes = np.unique(self._val_labels)
        logs = [np.log(own[self._val_labels == number]).mean() for number in classes]
        shares = [right[self._val_labels == number].mean() for number in classes]
        return {
            "true score of patch": float(np.exp(np.mean(logs))) if logs else 0.0,
            "top-1 of patch": float(np.mean(shares)) if shares else 0.0,
        }

    def _located(self, scores: NDArray[np.float32], summing: Summing) -> list[Located]:
        """Return the results of images from the scores (N, M, 1 + C) of their patches."""
        sums = PowerSums(self._grid, self.settings.cells, summing)
        found = []
        for own in torch.from_numpy(scores).split(1):
            image, maps = sums(own)
            found.append(Located(image[0].numpy(), maps[0, 1:].numpy()))
        return found

    def _choose_summing(self) -> None:
        """Choose k, the form of the map and the background on the validation images."""
        val = self.job.val
        scores = self._image_scores(self._val_cache, len(val))
        figures = {
            (form, k): self.measure(val, self._located(scores, Summing(k, k, form)))
            for form in FORMS
            for k in POWERS
        }
        form, map_power = max(figures, key=lambda key: list(figures[key].values())[:2])
        power = max(POWERS, key=lambda k: _of_classes(figures[form, k]))
        chosen = Summing(power, map_power, form)
        chosen = chosen._replace(level=choose_level(val, self._located(scores, chosen)))
        self._summing = chosen
        self.notes.append(
            f"score map: {form}, k {map_power:.3g}; scores of images: k {power:.3g}; background "
            f"{chosen.level:.2f}; chosen on the validation images"
        )
        across = sorted(POWERS)
        self.charts["Peak in object over log10 of k, validation"] = (
            [float(np.log10(k)) for k in across],
            {form: [figures[form, k]["peak in object"] for k in across] for form in FORMS},
        )

    def _write_notes(self) -> None:
        labels = ("background", *self.job.labels)
        shown = ", ".join(
            f"{label} {count}" for label, count in zip(labels, self._counts.tolist(), strict=True)
        )
        self.notes.append(
            f"{len(self._labels)} patches were trained on: {shown}; rare ones count more, by the "
            "root of their number"
        )
        if missing := [
            label for label, count in zip(labels, self._counts, strict=True) if not count
        ]:
            self.notes.append(
                f"no patch holds most of an object of {', '.join(missing)}: set other ratios"
            )
        self.notes.append(
            f"the model scores {len(self._grid.squares)} patches of each image, and its time is "
            "nearly proportional to that: --set test_patches=N"
        )


def _of_classes(figures: Mapping[str, float]) -> tuple[float, float]:
    return figures["class AP"], figures["top-1"]
