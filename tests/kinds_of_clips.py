"""Clips of different kinds, made from the shipped one."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tests.builders import CLIP

FPS = 10.0


def make_clips(folder: Path, frames: int = 100) -> dict[str, Path]:
    """One clip of each kind: crowded, empty for long, with one object, and small."""
    pictures = list(_pictures(frames))
    height, width = pictures[0].shape[:2]
    blank = np.full_like(pictures[0], 96)
    kinds = {
        "crowded": [np.tile(cv2.resize(p, (width // 2, height // 2)), (2, 2, 1)) for p in pictures],
        "empty": [p if i % frames in range(60, 70) else blank for i, p in enumerate(pictures)],
        "single": [_with_one_object(blank, pictures[0], i) for i in range(frames)],
        "small": [cv2.resize(p[:, : width // 2], (176, 144)) for p in pictures],
    }
    return {name: _write(folder / f"{name}.avi", of) for name, of in kinds.items()}


def _pictures(frames: int) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(str(CLIP))
    for _ in range(frames):
        read, picture = video.read()
        assert read
        yield picture
    video.release()


def _with_one_object(blank: np.ndarray, picture: np.ndarray, step: int) -> np.ndarray:
    """A grey ground on which one part of a picture moves from left to right."""
    height, width = picture.shape[:2]
    part = picture[height // 4 : height * 3 // 4, width // 3 : width // 2]
    moved = blank.copy()
    left = step * (width - part.shape[1]) // 200
    moved[height // 4 : height // 4 + part.shape[0], left : left + part.shape[1]] = part
    return moved


def _write(path: Path, pictures: list[np.ndarray]) -> Path:
    height, width = pictures[0].shape[:2]
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), fourcc, FPS, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path
