"""The images of a labelled data set as a source: the frames of `run.py evaluate`."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from models import datasets
from models.datasets.base import DataSet, LabelledImage
from models.errors import DataError
from pipeline.errors import SetupError, SourceError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved, Resources, Settings, Source, SourceInfo
from stages.capture.image_folder import read_image

Format = Literal[
    "auto", "coco", "yolo", "voc", "folders", "semantic", "mot", "cvat", "label_studio", "pennfudan"
]


class DatasetSettings(Settings, frozen=True):
    """Settings of a data set as a source."""

    data: Annotated[str, msgspec.Meta(min_length=1)]
    """File or folder of the data set."""
    format: Format = "auto"
    """Format of the data set; auto: the one that its files show."""
    split: str | None = None
    """Part of the data set, such as val; null: all of it."""
    frames: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """End after so many images; null: after all."""


class Dataset(Source):
    """Gives the images of a data set in their order; each frame has the name of its image.

    Images are not frames of a video, so they are not tracked. One that cannot be decoded is counted
    as `decode` and becomes no frame.
    """

    Settings = DatasetSettings
    gives = (Array("image", "uint8", (None, None, 3)),)

    settings: DatasetSettings

    def __init__(self, settings: DatasetSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._images: tuple[LabelledImage, ...] = ()
        self._taken = 0
        self._undecoded = 0
        self._filled = False

    @classmethod
    def resolve(cls, settings: DatasetSettings) -> Resolved:
        """Read the data set, and offer the number of its images.

        Raises:
            SourceError: it cannot be read, or holds no images.
        """
        data = read_data(settings)
        if not data.images:
            raise SourceError(
                f"{settings.data}: the data set has clips and no images; use a clip as `source`",
                "unsupported",
            )
        info = SourceInfo(settings.data, (settings.data, settings.split), False, len(data.images))
        return Resolved((info,))

    @classmethod
    def resources(cls, settings: DatasetSettings) -> Resources:
        """Declare the file or folder, and the images."""
        images = (image.path for image in read_data(settings).images)
        return Resources(reads=(Path(settings.data), *images))

    def open(self) -> None:
        """Look up the images."""
        self._images = read_data(self.settings).images

    def skip(self, images: int, source_ns: int) -> None:
        """Continue behind the first so many images."""
        self._taken = images

    def offer(self, frame: Frame) -> None:
        """Fill the frame with the next image that can be decoded."""
        self._filled = False
        while not self._filled and self._taken < len(self._images):
            image = self._images[self._taken]
            self._taken += 1
            self._filled = self._fill(frame, image)

    def collect(self) -> bool:
        """Return whether the frame is filled; False at the end of the data set."""
        return self._filled

    def missed(self) -> tuple[int, int]:
        """Return how many images since the last call (found no slot, could not be decoded)."""
        undecoded, self._undecoded = self._undecoded, 0
        return 0, undecoded

    def info(self) -> Mapping[str, str]:
        """Return the decoder."""
        return {"decoder": "OpenCV imread"}

    def _fill(self, frame: Frame, image: LabelledImage) -> bool:
        header = frame.header
        header.captured_ns, header.wall_ns = time.monotonic_ns(), time.time_ns()
        header.source_ns, header.still = (self._taken - 1) * 1_000_000_000, True
        header.used = 0
        header.arrays.clear()
        pixels = read_image(image.path)
        if pixels is None:
            self.context.log.warning("%s: skipped, it cannot be decoded as an image", image.path)
            self._undecoded += 1
            return False
        height, width = pixels.shape[:2]
        if (width, height) != image.size:
            self.context.log.warning(
                "%s: the data set states another size of the image (found %dx%d, stated %dx%d); "
                "its boxes may be wrong",
                *(image.path, width, height, *image.size),
            )
        frame.put("image", pixels)
        frame.put_file(image.name)
        return True


@functools.lru_cache(maxsize=2)
def read_data(settings: DatasetSettings) -> DataSet:
    """Read the data set of some settings, up to their number of images, once per process.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        data = datasets.read(Path(settings.data), settings.format, settings.split)
    except DataError as error:
        raise SetupError(str(error)) from None
    return msgspec.structs.replace(data, images=data.images[: settings.frames])
