"""R-CNN: selective search, CNN codes of warped regions, a linear classifier for each class.

Source: Girshick, Donahue, Darrell and Malik, "Rich Feature Hierarchies for Accurate Object
Detection and Semantic Segmentation", CVPR 2014. As there: about 2000 proposals, warped with context
to a square; one support vector machine for each class, with hard negatives; one box regressor for
each class; suppression of overlaps. Not as there: the network is not fine-tuned, and a positive is
a region with an IoU of .5, not an object's own box alone (.58 in place of .71 here).

No PyTorch is needed: onnxruntime computes the codes, scikit-learn the classifiers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models import runtime
from models.boxes.forms import from_xyxy
from models.boxes.iou import Boxes, iou_matrix
from models.boxes.offsets import RPN, encode_offsets
from models.datasets.base import LabelledImage
from models.families.rcnn import PROPOSALS
from models.proposals.selective_search import SearchSettings
from models.training import method
from models.training.assign import BACKGROUND, ignore_inside, match_between
from models.training.features import Views, read_input
from models.training.graph import IMAGES
from models.training.linear_models import (
    Codes,
    Plane,
    fit_ridges,
    fit_scores,
    fit_svm,
)
from models.training.method import Job, ModelCard, Progress
from models.training.methods.codes import pooling_matrix
from models.training.packages import package
from models.training.region_graph import AT_ONCE, Cut, Linear, region_graph, rows_of
from models.training.tasks.detect import Detects, Objects
from models.training.tasks.regions import OUTPUT, Judged, JudgesRegions

STRENGTHS = (0.1, 1.0, 10.0)
"""Values of C that are tried; a higher one trusts the examples more."""
LIMITS = (0.1, 0.3, 1.0, 3.0)
"""Values of lambda of the regressors that are tried; a higher one moves boxes less."""
LOW, HIGH = 0.3, 0.5
"""IoU below which a region is background, and from which it is an object (section 2.3)."""
NEAR = 0.1
"""IoU from which a region of the background is near an object."""
REGRESSED = 0.6
"""IoU from which a region teaches the regressor (appendix C)."""
MAX_REGIONS = 40_000
"""Regions of all training images together, at most."""


class Settings(method.Settings, frozen=True, kw_only=True):
    """Settings of R-CNN."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = 384
    """Side in pixels to which an image is stretched, and in which regions are found and cut."""
    crop: Annotated[int, Meta(ge=32, le=512)] = 112
    """Side in pixels of a warped region."""
    search: SearchSettings = SearchSettings(max_proposals=1000)
    """Settings of selective search, also of the trained model."""
    pool: Annotated[int, Meta(ge=1, le=4)] = 2
    """Cells of each side into which the map of a region is pooled."""
    regions: Annotated[int, Meta(ge=10, le=2000)] = 240
    """Regions of an image to train with: a sixth objects, the others near objects, or far."""
    views: Annotated[int, Meta(ge=1, le=1000)] = 1


class Examples(NamedTuple):
    """Regions of all training images; parallel arrays."""

    codes: Codes
    """(N, D)"""
    overlaps: NDArray[np.float32]
    """(N, C) IoU with the best object of each class."""
    ignored: NDArray[np.bool_]
    """(N,) whether it lies in an object that is neither right nor wrong."""
    offsets: NDArray[np.float32]
    """(N, C, 4) from the region to that object: tx, ty, tw, th."""


class Rcnn(JudgesRegions):
    """Detects by linear models on codes of proposals."""

    Settings = Settings

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        package("sklearn")
        settings, backbone = job.settings, job.backbone
        number = len(backbone.blocks) if settings.layers is None else settings.layers
        block = backbone.blocks[max(0, min(number, len(backbone.blocks)) - 1)]
        piece = backbone.piece([block.tensor])
        blank = np.zeros((1, 3, settings.crop, settings.crop), np.float32)
        height, width = runtime.open_graph(piece.SerializeToString())({IMAGES: blank})[0].shape[2:]
        pooling = pooling_matrix(height, width, settings.pool)
        self._cut = Cut(piece, block.tensor, pooling, block.channels, self.size, settings.crop)
        self._codes = self._graph(None, "codes")
        self._views = Views(job.train, settings.augment, self.size, settings.views, job.seed)
        self._linear = Linear(np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
        self._known: dict[str, NDArray[np.float32]] = {}
        """Name of a validation image -> values of its proposals, (P, 5 * C)."""

    def estimate_s(self) -> float:
        """Return about how many seconds all proposals and codes take."""
        start = time.monotonic()
        image = self.job.train[0]
        proposals = self.proposals(image)
        search = time.monotonic() - start
        start = time.monotonic()
        self._run(self._codes, self._views.pixels(0)[None], proposals[:AT_ONCE])
        each = (time.monotonic() - start) / AT_ONCE
        trained = len(self._views) * self._per_view
        return search * (len(self.job.train) + len(self.job.val)) + each * (
            trained + len(self.job.val) * len(proposals)
        )

    def fit(self) -> None:
        """Compute codes, fit classifiers and regressors, and choose both on the validation set."""
        self.search([*self.job.train, *self.job.val])
        self.report_recall()
        examples = self._examples()
        count = len(self.job.labels)
        svms = [self._classifiers(examples, strength) for strength in STRENGTHS]
        ridges = self._regressors(examples)
        values = self._validate([*svms, *ridges])
        strength = self._choose_strength([own[:, : len(svms) * count] for own in values])
        scores = [own[:, strength * count : (strength + 1) * count] for own in values]
        moves = [own[:, len(svms) * count :] for own in values]
        limit = self._choose_limit(scores, moves)
        factor, shift = self._scale(scores)
        svm, ridge = svms[strength], ridges[limit]
        self._linear = Linear(
            np.concatenate([svm.weight * factor, ridge.weight], axis=1).astype(np.float32),
            np.concatenate([svm.bias * factor + shift, ridge.bias]).astype(np.float32),
        )
        width = 4 * count
        for image, score, move in zip(self.job.val, scores, moves, strict=True):
            own = move[:, limit * width : (limit + 1) * width]
            self._known[image.name] = np.concatenate([score * factor + shift, own], axis=1)

    def predict(self, images: Sequence[LabelledImage]) -> list[Judged]:
        """Return the objects of each image."""
        run = self._graph(self._linear, "values")
        found = []
        for number, image in enumerate(images, 1):
            values = self._known.get(image.name)
            if values is None:
                values = self._values(run, image)
            found.append(self._result(image, values))
            self.job.report(Progress("measuring", number, len(images)))
        return found

    def outputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the rows of an input, computed from its codes in numpy."""
        proposals = self.inputs(pixels)[PROPOSALS]
        codes = self._run(self._codes, pixels, proposals)
        return {OUTPUT: self._linear.rows(codes, proposals, self.size)[None]}

    def export(self, path: Path) -> ModelCard:
        """Write the graph from image and proposals to rows."""
        path.write_bytes(region_graph(self._cut, self._linear, OUTPUT).SerializeToString())
        return self.card()

    @property
    def _per_view(self) -> int:
        """Return the number of regions of a view."""
        return max(10, min(int(self.settings.regions), MAX_REGIONS // len(self._views)))

    def _graph(self, linear: Linear | None, end: str) -> Any:
        model = region_graph(self._cut, linear, end)
        return runtime.open_graph(model.SerializeToString(), self.job.threads)

    def _run(self, run: Any, pixels: NDArray[np.uint8], boxes: Boxes) -> NDArray[np.float32]:
        found: NDArray[np.float32] = run({"images": pixels, PROPOSALS: boxes.astype(np.float32)})[0]
        return found

    def _values(self, run: Any, image: LabelledImage) -> NDArray[np.float32]:
        return self._run(run, read_input(image, self.size)[None], self.proposals(image))

    def _result(self, image: LabelledImage, values: NDArray[np.float32]) -> Judged:
        rows = [rows_of(values, self.proposals(image), self.size, move) for move in (True, False)]
        return self.judged(image, rows[0], rows[1])

    # --- examples ---

    def _examples(self) -> Examples:
        """Return the regions of all views of the training images, with their codes."""
        settings = self.settings
        about = (settings.crop, settings.pool, settings.search, self._per_view)
        key = hashlib.sha256(
            f"rcnn {self._views.key()} {self.job.backbone.sha256} {self._cut.tensor}".encode()
            + msgspec.json.encode(about)
        ).hexdigest()[:24]
        folder = self.job.cache / key
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for row in range(len(self._views)):
            found.append(self._examples_of(row, folder / f"{row}.npy"))
            self.job.report(Progress("features", row + 1, len(self._views)))
        return Examples(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _examples_of(self, row: int, path: Path) -> Examples:
        """Return the regions of a view, the codes of which are read if they are stored."""
        image, view = self.job.train[row // self._views.count], self._views.view(row)
        truth = self.truth_in(image, view)
        random = np.random.default_rng((self.job.seed, 2, row))
        boxes = np.concatenate([truth.boxes, self.proposals_in(image, view)])
        iou = iou_matrix(boxes, truth.boxes)
        boxes = boxes[_chosen(iou, self._per_view, random)]
        iou = iou_matrix(boxes, truth.boxes)
        overlaps, offsets = _by_class(boxes, truth.boxes, truth.classes, iou, len(self.job.labels))
        matches = ignore_inside(match_between(iou, LOW, HIGH), boxes, truth.ignored)
        ignored = (matches < BACKGROUND) & (overlaps.max(axis=1) < HIGH)
        codes = _read(path, len(boxes))
        if codes is None:
            codes = self._run(self._codes, self._views.pixels(row)[None], boxes).astype(np.float16)
            _write(path, codes)
        return Examples(codes, overlaps, ignored, offsets)

    # --- linear models ---

    def _classifiers(self, examples: Examples, strength: float) -> Plane:
        """Return one support vector machine for each class, (D, C)."""
        planes = []
        for number, label in enumerate(self.job.labels):
            overlaps = examples.overlaps[:, number]
            positive = np.flatnonzero(overlaps >= HIGH)
            negative = np.flatnonzero((overlaps < LOW) & ~examples.ignored)
            if not len(positive) or not len(negative):
                # A class without an example is never found.
                self._note_once(f"class {label}: no example to learn from; it is never found")
                planes.append(
                    Plane(
                        np.zeros((examples.codes.shape[1], 1), np.float32),
                        np.full(1, -30, np.float32),
                    )
                )
                continue
            random = np.random.default_rng((self.job.seed, 3, number))
            planes.append(fit_svm(examples.codes, positive, negative, strength, random))
            self.job.report(Progress("training", number + 1, len(self.job.labels)))
        return _beside(planes)

    def _regressors(self, examples: Examples) -> list[Plane]:
        """Return the box regressors of all classes, (D, 4 * C), for each of `LIMITS`."""
        by_class = []
        width = examples.codes.shape[1]
        for number in range(len(self.job.labels)):
            rows = np.flatnonzero(examples.overlaps[:, number] >= REGRESSED)
            rows = np.random.default_rng((self.job.seed, 4, number)).permutation(rows)
            if len(rows):
                codes, offsets = examples.codes[rows], examples.offsets[rows, number]
                by_class.append(fit_ridges(codes, offsets, LIMITS))
            else:
                still = Plane(np.zeros((width, 4), np.float32), np.zeros(4, np.float32))
                by_class.append([still] * len(LIMITS))
        return [_beside(planes) for planes in zip(*by_class, strict=True)]

    def _validate(self, planes: Sequence[Plane]) -> list[NDArray[np.float32]]:
        """Return the values of several linear models for all proposals of each validation image."""
        together = _beside(planes)
        run = self._graph(Linear(together.weight, together.bias), "values")
        found = []
        for number, image in enumerate(self.job.val, 1):
            found.append(self._values(run, image))
            self.job.report(Progress("validating", number, len(self.job.val)))
        return found

    def _choose_strength(self, values: Sequence[NDArray[np.float32]]) -> int:
        """Return the number of the C with the best AP50 on the validation images."""
        count = len(self.job.labels)
        figures = []
        for number in range(len(STRENGTHS)):
            scores = [own[:, number * count : (number + 1) * count] for own in values]
            figures.append(self._ap50([(own, np.zeros((len(own), 4 * count))) for own in scores]))
        return self._chosen("C of the classifiers", STRENGTHS, figures)

    def _choose_limit(
        self, scores: Sequence[NDArray[np.float32]], moves: Sequence[NDArray[np.float32]]
    ) -> int:
        """Return the number of the lambda with the best AP50 on the validation images."""
        width = 4 * len(self.job.labels)
        figures = []
        for number in range(len(LIMITS)):
            own = [move[:, number * width : (number + 1) * width] for move in moves]
            figures.append(self._ap50(list(zip(scores, own, strict=True))))
        return self._chosen("lambda of the box regressors", LIMITS, figures)

    def _ap50(self, values: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
        results = [
            self._result(image, np.concatenate(own, axis=1).astype(np.float32))
            for image, own in zip(self.job.val, values, strict=True)
        ]
        objects = [Objects(own.boxes, own.scores, own.classes) for own in results]
        return Detects.measure(self, self.job.val, objects)["AP50"]

    def _chosen(self, name: str, values: Sequence[float], figures: Sequence[float]) -> int:
        best = int(np.argmax(figures))
        shown = ", ".join(f"{v:g}: {f:.3f}" for v, f in zip(values, figures, strict=True))
        self.notes.append(f"{name} is {values[best]:g}, by AP50 on the validation images ({shown})")
        return best

    def _scale(self, scores: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
        """Return factor and shift of the values of the classifiers before the sigmoid."""
        right = []
        for image, own in zip(self.job.val, scores, strict=True):
            view = Views([image], self.settings.augment, self.size, 1, self.job.seed).view(0)
            truth, proposals = self.truth_in(image, view), self.proposals(image)
            iou = iou_matrix(proposals, truth.boxes)
            overlaps, _ = _by_class(proposals, truth.boxes, truth.classes, iou, own.shape[1])
            right.append(overlaps >= HIGH)
        return fit_scores(np.concatenate(scores).ravel(), np.concatenate(right).ravel())

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _chosen(iou: NDArray[np.floating], count: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Choose regions of a view at random: all kinds of them, the objects themselves too.

    Args:
        iou: (P, G) of regions with objects; the first G regions are the objects.
        count: number of regions.
        random: draws them.

    Returns:
        their rows.
    """
    best = iou.max(axis=1, initial=0)
    objects = np.arange(iou.shape[1])
    others = np.arange(len(iou)) >= iou.shape[1]
    positive = random.permutation(np.flatnonzero(others & (best >= HIGH)))[: count // 6]
    near = random.permutation(np.flatnonzero(others & (best >= NEAR) & (best < LOW)))
    near = near[: (count - len(positive)) // 2]
    far = random.permutation(np.flatnonzero(others & (best < NEAR)))
    far = far[: count - len(positive) - len(near)]
    chosen: NDArray[np.intp] = np.concatenate([objects, positive, near, far])
    return chosen


def _by_class(
    boxes: Boxes,
    objects: Boxes,
    classes: NDArray[np.intp],
    iou: NDArray[np.floating],
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the overlap of each region with the best object of each class, and its offsets."""
    overlaps = np.zeros((len(boxes), count), np.float32)
    offsets = np.zeros((len(boxes), count, 4), np.float32)
    anchors = from_xyxy(boxes, "cxcywh")
    for number in np.unique(classes).tolist():
        own = np.flatnonzero(classes == number)
        best = iou[:, own].argmax(axis=1)
        overlaps[:, number] = iou[np.arange(len(boxes)), own[best]]
        offsets[:, number] = encode_offsets(objects[own[best]], anchors, RPN)
    return overlaps, offsets


def _beside(planes: Sequence[Plane]) -> Plane:
    """Return linear models as one, their values beside each other."""
    return Plane(
        np.concatenate([plane.weight for plane in planes], axis=1),
        np.concatenate([plane.bias for plane in planes]),
    )


def _read(path: Path, count: int) -> Codes | None:
    """Read stored codes; None: there are none, or they are damaged."""
    try:
        with path.open("rb") as file:
            read: Callable[..., Codes] = np.lib.format.read_array
            codes = read(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return codes if codes.ndim == 2 and len(codes) == count else None


def _write(path: Path, codes: Codes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, codes, allow_pickle=False)
    part.replace(path)
