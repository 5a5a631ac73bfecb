"""The sink of `run.py evaluate` writes detections with all their digits, once each."""

import json

import numpy as np

from pipeline.frame import Frame
from pipeline.testing import context, run_stages
from stages.sinks.score import Score, ScoreSettings


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
