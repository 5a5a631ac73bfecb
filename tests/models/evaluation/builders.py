"""Random images with true and found boxes, and pycocotools' figures of them."""

import contextlib
import io

import numpy as np

from models.evaluation.detection import ImageBoxes

LABELS = ("car", "person", "dog")


def boxes(*rows):
    return np.array(rows, np.float64).reshape(-1, 4)


def image_of(name="a.jpg", truth=(), found=(), ignored=(), areas=None):
    """Make an image; `truth` has (class, box), `found` has (class, score, box)."""
    truth_boxes = boxes(*(box for _, box in truth))
    if areas is None:
        areas = (truth_boxes[:, 2] - truth_boxes[:, 0]) * (truth_boxes[:, 3] - truth_boxes[:, 1])
    flags = np.zeros(len(truth), bool)
    flags[list(ignored)] = True
    return ImageBoxes(
        name,
        640,
        480,
        truth_boxes,
        np.array([number for number, _ in truth], np.int64),
        flags,
        np.asarray(areas, np.float64),
        boxes(*(box for _, _, box in found)),
        np.array([score for _, score, _ in found], np.float64),
        np.array([number for number, _, _ in found], np.int64),
    )


def random_image(rng, name, max_truth=6, max_found=12, classes=3, noise=6.0):
    """Make an image in which found boxes are near true ones, with few distinct scores."""
    count, more = rng.integers(0, max_truth + 1), rng.integers(0, max_found + 1)
    # Whole pixels, so that equal overlaps and overlaps of exactly .5 occur.
    corner = rng.integers(0, 300, (count, 2))
    truth = np.hstack([corner, corner + rng.choice([8, 16, 40, 64, 150], (count, 2))])
    near = truth[rng.integers(0, count, more)] if count else rng.integers(0, 9, (more, 4))
    found = np.rint(near + rng.normal(0, noise, (more, 4)))
    found = np.hstack([found[:, :2], np.maximum(found[:, 2:], found[:, :2])])
    flags = np.flatnonzero(rng.random(count) < 0.15)
    return image_of(
        name,
        list(zip(rng.integers(0, classes, count), truth, strict=True)),
        list(
            zip(
                rng.integers(0, classes, more),
                rng.choice([0.2, 0.5, 0.5, 0.9, 1.0], more),
                found,
                strict=True,
            )
        ),
        flags,
    )


def random_images(seed, count, **options):
    rng = np.random.default_rng(seed)
    return [random_image(rng, f"{number}.jpg", **options) for number in range(count)]


def with_rows(image, rows):
    """Return the image with some of its found boxes."""
    return image._replace(
        found_boxes=image.found_boxes[rows],
        found_scores=image.found_scores[rows],
        found_classes=image.found_classes[rows],
    )


def xywh(box):
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def of_pycocotools(images, classes=3):
    """Evaluate with pycocotools; returns its COCOeval after `summarize`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for number, image in enumerate(images, 1):
        for row, box in enumerate(image.truth_boxes):
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": number,
                    "category_id": int(image.truth_classes[row]),
                    "bbox": xywh(box),
                    "area": float(image.areas[row]),
                    "iscrowd": int(image.ignored[row]),
                }
            )
        for row, box in enumerate(image.found_boxes):
            found.append(
                {
                    "image_id": number,
                    "category_id": int(image.found_classes[row]),
                    "bbox": xywh(box),
                    "score": float(image.found_scores[row]),
                }
            )
    numbers = [{"id": number} for number in range(1, len(images) + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": numbers,
            "annotations": truth,
            "categories": [{"id": number, "name": str(number)} for number in range(classes)],
        }
        coco.createIndex()
        if found:
            result = coco.loadRes(found)
        else:  # loadRes refuses an empty list
            result = COCO()
            result.dataset = {**coco.dataset, "annotations": []}
            result.createIndex()
        evaluation = COCOeval(coco, result, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
