"""A page of the worst pictures: one HTML file, with a JPEG file for each picture beside it."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import EvaluationError
from models.evaluation.arrays import Boxes
from models.evaluation.detection import ImageBoxes
from models.evaluation.matching import ImageMatches, worst_first
from models.text import shown

Image = NDArray[np.uint8]
"""(height, width, 3) BGR."""

MAX_IMAGES = 50
"""Number of pictures on a page."""
MAX_SIDE_PX = 800
"""Longer side of a picture; larger images are made smaller."""
QUALITY = 85
"""JPEG quality, 0 to 100."""
_FONT_SCALE = 0.45
_MARGIN_PX = 4


class Kind(NamedTuple):
    """A kind of box, as it is drawn and explained."""

    name: str
    colour: tuple[int, int, int]
    """BGR."""
    meaning: str

    @property
    def css(self) -> str:
        """Return the colour for a page."""
        blue, green, red = self.colour
        return f"#{red:02x}{green:02x}{blue:02x}"


FOUND = Kind("found", (115, 158, 0), "an object that is found")
MISSED = Kind("missed", (0, 159, 230), "an object that is not found")
FALSE = Kind("false", (0, 0, 220), "a found box without an object of its class, with its score")
IGNORED = Kind("ignored", (160, 160, 160), "an object that does not count")
KINDS = (FOUND, MISSED, FALSE, IGNORED)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fafafa; }}
h1 {{ font-size: 1.4rem; }}
ul {{ list-style: none; padding: 0; }}
.key {{ display: inline-block; width: 1.6em; height: .9em; margin-right: .6em;
 border: 3px solid; box-sizing: border-box; vertical-align: -.1em; }}
main {{ display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); }}
figure {{ margin: 0; padding: .8rem; background: #fff; border: 1px solid #ddd; }}
img {{ max-width: 100%; height: auto; display: block; }}
figcaption {{ margin-top: .5rem; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<ul>
{legend}
</ul>
<main>
{figures}
</main>
</body>
</html>
"""


def write_worst_images(
    folder: Path,
    title: str,
    images: Sequence[ImageBoxes],
    matches: Sequence[ImageMatches],
    labels: Sequence[str],
    load: Callable[[str], Image],
    count: int = MAX_IMAGES,
) -> Path:
    """Write `worst.html` and `worst-001.jpg`, ... of the images with the most errors.

    Files of these names are replaced. All text is escaped, and the page loads nothing from
    elsewhere.

    Args:
        folder: folder to write to; it is made where it is missing.
        title: heading of the page.
        images: as for `match_images`.
        matches: its result.
        labels: names of the classes.
        load: returns the pixels of an image by its name, (height, width, 3) uint8 BGR.
        count: number of images at most.

    Returns:
        the path of the page.

    Raises:
        EvaluationError: an image is not of its size, or a file cannot be written.
    """
    by_name = {image.name: image for image in images}
    worst = worst_first(matches)[:count]
    page = folder / "worst.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figures = []
        for number, match in enumerate(worst, 1):
            image = by_name[match.name]
            file = f"worst-{number:03}.jpg"
            pixels = load(match.name)
            (folder / file).write_bytes(worst_image_jpeg(pixels, image, match, labels))
            figures.append(_figure(file, image, match))
        page.write_text(_page(title, figures, matches), encoding="utf-8")
    except OSError as failure:
        raise EvaluationError(
            f"{folder}: the page cannot be written: {failure.strerror}; choose another folder"
        ) from None
    return page


def worst_image_jpeg(
    pixels: Image, image: ImageBoxes, match: ImageMatches, labels: Sequence[str]
) -> bytes:
    """Draw the boxes of an image in the colours of their kind, and encode it.

    Args:
        pixels: (height, width, 3) uint8 BGR; not changed.
        image: its boxes.
        match: which of them are found, missed and false.
        labels: names of the classes.

    Raises:
        EvaluationError: the pixels are no BGR image of the size of `image`.
    """
    import cv2

    expected = (image.height, image.width, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise EvaluationError(
            f"{image.name}: the image is not {expected} uint8 (found {pixels.shape} "
            f"{pixels.dtype}); load the image that was evaluated, in BGR"
        )
    scale = min(1.0, MAX_SIDE_PX / max(image.width, image.height))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas: Image = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    truth, found = image.truth_boxes * scale, image.found_boxes * scale
    # The kinds of most interest last, on top.
    for kind, boxes in (
        (IGNORED, truth[image.ignored]),
        (FOUND, truth[match.truth]),
        (MISSED, truth[match.missed]),
        (FALSE, found[match.false]),
    ):
        for left, top, right, bottom in _inside(boxes, size):
            cv2.rectangle(canvas, (left, top), (right, bottom), kind.colour, 2)
    _write_names(canvas, truth[match.missed], found[match.false], image, match, labels)
    done, data = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise EvaluationError(f"{image.name}: OpenCV cannot encode the picture as JPEG")
    return bytes(data)


def _write_names(
    canvas: Image,
    missed: Boxes,
    false: Boxes,
    image: ImageBoxes,
    match: ImageMatches,
    labels: Sequence[str],
) -> None:
    """Write the names of missed boxes above them, and of false ones, with the score, below.

    So both can be read where a box is of a wrong class.
    """
    names = [_ascii(label) for label in labels]
    size = canvas.shape[1], canvas.shape[0]
    for row, (left, top, _, _) in zip(match.missed, _inside(missed, size), strict=True):
        _write(canvas, names[image.truth_classes[row]], left, top, MISSED, above=True)
    for row, (left, _, _, bottom) in zip(match.false, _inside(false, size), strict=True):
        text = f"{names[image.found_classes[row]]} {image.found_scores[row]:.2f}"
        _write(canvas, text, left, bottom, FALSE, above=False)


def _inside(boxes: Boxes, size: tuple[int, int]) -> list[list[int]]:
    """Round boxes to pixels inside the image."""
    width, height = size
    corners = np.clip(np.rint(boxes), 0, [width - 1, height - 1, width - 1, height - 1])
    rounded: list[list[int]] = corners.astype(int).tolist()
    return rounded


def _write(canvas: Image, text: str, left: int, at: int, kind: Kind, above: bool) -> None:
    """Write a text on the colour of its kind, above or below a height, inside the image."""
    import cv2

    height, width = canvas.shape[:2]
    (across, up), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, 1)
    high = up + below + _MARGIN_PX
    left = max(0, min(left, width - across - _MARGIN_PX))
    top = max(0, min(at - high if above else at, height - high))
    cv2.rectangle(canvas, (left, top), (left + across + _MARGIN_PX, top + high), kind.colour, -1)
    cv2.putText(
        canvas,
        text,
        (left + _MARGIN_PX // 2, top + up + _MARGIN_PX // 2),
        cv2.FONT_HERSHEY_SIMPLEX,
        _FONT_SCALE,
        (0, 0, 0) if kind is MISSED else (255, 255, 255),
        1,
        cv2.LINE_AA,
    )


def _ascii(label: str) -> str:
    """Make a label fit for OpenCV's font, which has ASCII only."""
    return shown(label, 24).encode("ascii", "replace").decode()


def _figure(file: str, image: ImageBoxes, match: ImageMatches) -> str:
    """Write one picture of the page."""
    counts = f"{len(match.missed)} missed, {len(match.false)} false, {len(match.found)} found"
    name = html.escape(shown(image.name))
    return (
        f'<figure><a href="{file}"><img src="{file}" alt="{name}" loading="lazy"></a>'
        f"<figcaption><b>{name}</b><br>{counts}</figcaption></figure>"
    )


def _page(title: str, figures: Sequence[str], matches: Sequence[ImageMatches]) -> str:
    """Write the page."""
    wrong = sum(1 for match in matches if match.errors)
    legend = "\n".join(
        f'<li><span class="key" style="border-color: {kind.css}"></span>'
        f"<b>{kind.name}</b>: {kind.meaning}</li>"
        for kind in KINDS
    )
    summary = f"{wrong} of {len(matches)} images have missed or false boxes"
    if figures:
        summary += f"; here are the {len(figures)} with the most"
    return _PAGE.format(
        title=html.escape(shown(title)),
        summary=f"{summary}.",
        legend=legend,
        figures="\n".join(figures),
    )
