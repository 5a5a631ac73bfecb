"""The sink of `run.py evaluate` writes detections with all their digits, once each."""

import json

import msgspec
import numpy as np

from models.boxes.masks import rle_of, text_of
from pipeline.frame import Frame
from pipeline.testing import context, run_stages
from stages.details import FrameLabel, put_masks
from stages.sinks.score import Score, Scored, ScoreSettings, scored


def frame(seq, scores, ids=None):
    n = len(scores)
    arrays = {
        "boxes": np.linspace(0.1, 99.9, 4 * n, dtype=np.float32).reshape(n, 4),
        "scores": np.array(scores, np.float32),
        "classes": np.arange(n, dtype=np.int32),
    }
    if ids is not None:
        arrays["ids"] = np.array(ids, np.int64)
    made = Frame.of("yard", seq, **arrays)
    made.put_file(f"folder/{seq}.jpg")
    return made


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_values_are_those_of_the_arrays_to_the_last_bit(tmp_path):
    path = tmp_path / "scores.jsonl"
    frames = [frame(0, [1 / 3, 0.1, 1e-7]), frame(1, [])]
    stage = Score(ScoreSettings(path=str(path)), context(streams=("yard",)))
    run_stages([stage], frames)
    first, second = lines(path)
    assert np.array(first["scores"], np.float32).tobytes() == frames[0]["scores"].tobytes()
    assert np.array(first["boxes"], np.float32).tobytes() == frames[0]["boxes"].tobytes()
    assert (first["stream"], first["frame"], first["file"]) == ("yard", 0, "folder/0.jpg")
    assert (first["classes"], first["ids"]) == ([0, 1, 2], None)
    assert (second["boxes"], second["scores"]) == ([], [])


def test_track_ids_are_written_where_there_are_any(tmp_path):
    path = tmp_path / "scores.jsonl"
    stage = Score(ScoreSettings(path=str(path)), context(streams=("yard",)))
    run_stages([stage], [frame(0, [0.5, 0.6], ids=[7, -1]), frame(1, [0.5], ids=[-1])])
    assert [line["ids"] for line in lines(path)] == [[7, -1], None]


def test_after_a_crash_the_file_continues_at_the_saved_line(tmp_path):
    path = tmp_path / "scores.jsonl"
    settings, around = ScoreSettings(path=str(path)), context(streams=("yard",))
    before = Score(settings, around)
    before.open()
    before.process(frame(0, [0.5]))
    saved = before.state("yard")
    before.process(frame(1, [0.6]))  # written, and not saved before the crash
    before.close()
    after = Score(settings, around)
    after.open()
    after.restore("yard", saved)
    after.process(frame(1, [0.6]))
    after.process(frame(2, [0.7]))
    after.close()
    assert [line["frame"] for line in lines(path)] == [0, 1, 2]


def test_details_are_written_row_by_row_where_there_are_any():
    made = frame(0, [0.5, 0.6])
    made.put("image", np.zeros((5, 7, 3), np.uint8))
    made.put("rows", np.array([1, 0], np.int32))
    texts = [text_of(rle_of(np.full((5, 7), n)).counts).encode() for n in (0, 1)]
    put_masks(made, texts)
    made.put("keypoints", np.arange(18, dtype=np.float32).reshape(2, 3, 3))
    made.put("rotated", np.arange(10, dtype=np.float32).reshape(2, 5))
    line = scored(made)
    assert line.masks.counts == [texts[1].decode(), texts[0].decode()]
    assert line.masks.size == (made.height, made.width)
    assert line.keypoints[0] == [[9, 10, 11], [12, 13, 14], [15, 16, 17]]
    assert line.rotated == [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    assert (line.labels, line.semantic) == (msgspec.UNSET, msgspec.UNSET)


def test_classes_of_frames_and_pixels_need_no_boxes():
    classes = np.random.default_rng(0).integers(0, 9, (6, 8), np.uint8)
    labels = [FrameLabel("street", 3, 0.7), FrameLabel("field", 1, 0.2)]
    made = Frame.of(
        "yard",
        4,
        semantic_map=classes,
        frame_labels=np.frombuffer(msgspec.json.encode(labels), np.uint8),
    )
    line = msgspec.json.decode(msgspec.json.encode(scored(made)), type=Scored)
    assert line.labels == labels
    np.testing.assert_array_equal(line.semantic.classes(), classes)
    assert (line.boxes, line.scores, line.classes) == ([], [], [])
