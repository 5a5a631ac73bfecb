"""The base of methods that learn by gradients: frozen features from the cache, a head on them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn

from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.training import method
from models.training.augment import View
from models.training.export import export
from models.training.extraction import extractor
from models.training.features import FeatureCache, Maps, Views, read_input
from models.training.graph import IMAGES
from models.training.learner import Learner, Whole
from models.training.loop import Loop, Plan
from models.training.method import Job, Method, ModelCard, Progress, Result
from models.training.onnx_net import OnnxNet

Outputs = Sequence[Tensor]
Truth = Mapping[str, NDArray[Any]]
"""Truth of one view: arrays in pixels of the input."""
PREDICT = 16
"""Images of a batch where nothing is learned."""


class Settings(method.Settings, frozen=True, kw_only=True):
    """Settings of methods that learn by gradients."""

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 30
    batch: Annotated[int, Meta(ge=1, le=1024)] = 16
    min_steps: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """Steps of an epoch at least; of few images, an epoch goes through them several times."""
    rate: Annotated[float, Meta(gt=0, le=1)] = 1e-3
    """Learning rate of the head."""
    backbone_rate: Annotated[float, Meta(ge=0, le=10)] = 1 / 3
    """Learning rate of the open blocks of the backbone, as a factor of that of the head."""
    head_first: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Part of the steps in which the head learns alone (Kumar et al., ICLR 2022: a head that knows
    nothing yet distorts the features below it)."""
    decay: Annotated[float, Meta(ge=0, le=1)] = 1e-2
    """Weight decay."""
    patience: Annotated[int, Meta(ge=1, le=10_000)] = 12
    """Epochs without a better figure on the validation images after which training ends."""


class GradientMethod(Method):
    """A method that learns by gradients.

    A method says which maps its head takes (`maps`), where the backbone is cut (`cut`), its `head`,
    the truth of a view (`truth`), its `loss`, the module that ends the exported graph (`finish`),
    and the `result` of an image from the outputs of that graph.
    """

    Settings: ClassVar[type[method.Settings]] = Settings
    on_gpu = True
    output_names: ClassVar[tuple[str, ...]] = ("scores",)
    """Names of the outputs of the exported graph."""
    batched: ClassVar[bool] = True
    """Whether outputs of the exported graph have one row for each image; else the graph takes one
    image, and they have one row for each object. What the head gives always has one per image."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Steps use bfloat16 there; what is measured and exported is computed as on the CPU.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        settings, backbone = job.settings, job.backbone
        self._train = Views(job.train, settings.augment, self.size, settings.views, job.seed)
        maps = self.maps()
        cut = self.cut() if settings.layers is None else settings.layers
        if cut > len(backbone.blocks):
            raise TrainingError(
                f"layers: the backbone {backbone.name} has {len(backbone.blocks)} blocks "
                f"(found {cut}); set fewer"
            )
        known = {block.tensor: block.channels for block in backbone.blocks}
        channels = [known[name] for name in maps]
        self.learner = Learner(backbone, cut, maps, self.head(channels)).to(job.device)
        self._extract = extractor(backbone, self.learner.inputs, job)
        source = f"{backbone.sha256} {' '.join(self.learner.inputs)}"
        self._cache = FeatureCache(job.cache, self._train, source, self._extract)
        val = Views(job.val, settings.augment, self.size, 1, job.seed)
        self._val_cache = FeatureCache(job.cache, val, source, self._extract)
        self._steps = max(settings.min_steps, -(-len(job.train) // settings.batch))
        self._loop = self.new_loop()

    # --- parts that a method has ---

    def maps(self) -> tuple[str, ...]:
        """Return the names of the tensors of the backbone that the head takes."""
        return (self.job.backbone.blocks[-1].tensor,)

    def cut(self) -> int:
        """Return how many blocks stay as they are, where the settings do not say it."""
        return len(self.job.backbone.blocks)

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the head.

        Args:
            channels: of each map, in the order of `maps`.
        """
        raise NotImplementedError

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the truth of a view of an image, in pixels of the input."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return the terms of the loss; their sum is made smaller."""
        raise NotImplementedError

    def finish(self) -> nn.Module:
        """Return the module from the outputs of the head to those of the exported graph."""
        return nn.Identity()

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the result of an image from the outputs of the exported graph, without batch."""
        raise NotImplementedError

    def card(self) -> ModelCard:
        """Return the method's part of the card."""
        raise NotImplementedError

    # --- parts that all have in common ---

    @classmethod
    def from_scratch(cls, settings: Any) -> Any:
        """Open all layers, at the rate of the head: a lower one would keep what they have seen."""
        return msgspec.structs.replace(settings, layers=0, backbone_rate=1.0)

    def estimate_s(self) -> float:
        """Return about how many seconds `fit` takes: of a few images and steps, times all."""
        start = time.monotonic()
        for _ in zip(range(2), self._cache.fill(), strict=False):
            pass
        rows = self._cache.computed
        missing = self._cache.missing + len(self.job.val)
        features = 0.0 if not rows else (time.monotonic() - start) / rows * missing
        known = np.arange(max(1, rows))
        batch = np.resize(known, self.job.settings.batch)
        step = self._loop.time_step(lambda *_: self._terms(batch))
        steps = self._steps + len(self.job.val) / self.job.settings.batch / 3
        return float(features + self.trainings() * self.job.settings.epochs * step * steps)

    def fit(self) -> None:
        """Compute the features that are missing, then train."""
        self.compute_features()
        self.train(self._loop)

    def trainings(self) -> int:
        """Return how often `fit` trains, with other settings each time."""
        return 1

    def compute_features(self) -> None:
        """Compute the features of all views that are missing in the cache."""
        job = self.job
        total = len(self._train) + len(job.val)
        for done in self._cache.fill():
            job.report(Progress("features", done, total))
        for done in self._val_cache.fill():
            job.report(Progress("features", len(self._train) + done, total))

    def new_loop(self, variant: str = "") -> Loop:
        """Return the loop of one training.

        Args:
            variant: name of the training among several of this run, each with a checkpoint.
        """
        name = f"checkpoint-{variant}.npz" if variant else "checkpoint.npz"
        path = self.job.folder / name
        plan = self._plan(variant)
        return Loop(self.learner, self._groups(), plan, path, self.job.device)

    def train(self, loop: Loop, number: int = 0) -> None:
        """Train, and leave the network with the weights of the best epoch.

        Args:
            loop: the training.
            number: how many trainings of `trainings` are over.
        """
        job = self.job
        steps = job.settings.epochs * self._steps
        before, total = number * steps, self.trainings() * steps
        loop.run(
            lambda epoch, number: self._terms(self._rows(epoch, number)),
            lambda: self.measure(job.val, self._cached_results(job.val)),
            self.merit,
            lambda done, text: job.report(Progress("training", before + done, total, text)),
        )
        self.curves, self.best_epoch = loop.curves, loop.best_epoch

    def predict(self, images: Sequence[LabelledImage]) -> list[Result]:
        """Return the result of each image."""
        maps = (
            self._extract(np.stack([read_input(image, self.size) for image in part]))
            for part in _parts(images, PREDICT)
        )
        return self._results(images, maps)

    def outputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs of PyTorch for inputs (N, size, size, 3) uint8 BGR."""
        with torch.no_grad():
            found = self._whole()(torch.from_numpy(pixels).to(self.job.device))
        return {
            name: tensor.cpu().numpy()
            for name, tensor in zip(self.output_names, found, strict=True)
        }

    def export(self, path: Path) -> ModelCard:
        """Write the whole network as ONNX."""
        export(self._whole().cpu(), self.size, self.output_names, path, self.batched)
        self.learner.to(self.job.device)
        return self.card()

    def _frozen(self) -> OnnxNet | None:
        """Return the part of the backbone below the learner; None: there is none."""
        names = self.learner.inputs
        if names == (IMAGES,):
            return None
        return OnnxNet(self.job.backbone.model, [IMAGES], names)

    def _whole(self) -> Whole:
        whole = Whole(self._frozen(), self.learner, self.finish())
        whole.to(self.job.device).eval()
        return whole

    def _groups(self) -> list[list[nn.Parameter]]:
        opened = [] if self.learner.open is None else list(self.learner.open.parameters())
        return [list(self.learner.head.parameters()), opened]

    def _plan(self, variant: str) -> Plan:
        settings = self.job.settings
        text = f"{self._cache.key} {variant} {self.job.threads} {self.job.device}"
        key = hashlib.sha256(text.encode() + msgspec.json.encode(settings)).hexdigest()
        rates = (settings.rate, settings.rate * settings.backbone_rate)
        starts = (0.0, settings.head_first)
        return Plan(
            settings.epochs, self._steps, rates, starts, settings.decay, settings.patience,
            self.job.seed, key,
        )  # fmt: skip

    def _rows(self, epoch: int, number: int) -> NDArray[np.intp]:
        """Return the rows of a step: every image once in an epoch, in one of its views.

        Of few images, an epoch goes through all of them several times.
        """
        random = np.random.default_rng((self.job.seed, 1, epoch))
        settings, count = self.job.settings, len(self.job.train)
        batch = settings.batch
        passes, place = divmod(number, -(-count // batch))
        for _ in range(passes + 1):
            order = random.permutation(count)
            views = random.integers(0, settings.views, count)
        # No step of a single image, where there are fewer than a batch.
        places = np.arange(place * batch, (place + 1) * batch)
        order = order[places[places < max(count, batch)] % count]
        return np.asarray(order * settings.views + views[order])

    def _terms(self, rows: NDArray[np.intp]) -> Mapping[str, Tensor]:
        views = self._train
        truths = [
            self.truth(views.images[row // views.count], views.view(row)) for row in rows.tolist()
        ]
        maps = [torch.from_numpy(maps).to(self.job.device) for maps in self._cache.rows(rows)]
        return self.loss(self.learner(*maps), truths)

    def _cached_results(self, images: Sequence[LabelledImage]) -> list[Result]:
        rows = np.arange(len(images))
        return self._results(
            images, (self._val_cache.rows(np.array(part)) for part in _parts(rows, PREDICT))
        )

    def _results(self, images: Sequence[LabelledImage], batches: Iterator[Maps]) -> list[Result]:
        """Return the result of each image from its frozen maps."""
        self.learner.eval()
        finish = self.finish().to(self.job.device).eval()
        results: list[Result] = []
        with torch.no_grad():
            for batch in batches:
                maps = [torch.from_numpy(maps).to(self.job.device) for maps in batch]
                for own in self._finished(finish, self.learner(*maps)):
                    results.append(self.result(own, images[len(results)]))
        return results

    def _finished(self, finish: nn.Module, outputs: Outputs) -> Iterator[list[NDArray[Any]]]:
        """Return the outputs of the exported graph for each image, from those of the head."""
        count = len(outputs[0])
        rows = (
            [outputs] if self.batched else [[o[n : n + 1] for o in outputs] for n in range(count)]
        )
        for own in rows:
            found = finish(*own)
            arrays = [
                tensor.cpu().numpy() for tensor in (found if isinstance(found, tuple) else (found,))
            ]
            if self.batched:
                yield from ([array[row] for array in arrays] for row in range(count))
            else:
                yield arrays


def _parts(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))
