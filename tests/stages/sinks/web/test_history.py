"""The history of streams, and the log of activities."""

import pytest

from pipeline.status import SourceState
from stages.sinks.web.activity import ActivityLog
from stages.sinks.web.history import BOUNDS_S, History, percentile
from tests.stages.sinks.web.status_page import StandIn, run_status, stage_status, stream_status


def test_frequent_object_activities_do_not_evict_those_of_streams():
    feed = ActivityLog(5)
    feed.add(0, "waiting", stream="gate", urgent=True)
    for id in range(100):
        feed.add(0, "appeared", stream="yard", label="person", id=id)
    assert [one.id or one.text for one in feed.after(0)] == ["waiting", 95, 96, 97, 98, 99]
    assert [one.id for one in feed.after(feed.newest - 2)] == [98, 99]


def test_changes_of_streams_and_stages_are_logged():
    run, feed = StandIn(streams=[stream_status("a"), stream_status("b")]), ActivityLog(50)
    history = History(run, feed)
    history.sample()
    assert feed.after(0) == []
    away = SourceState("waiting", "refused", "nothing listens there")
    run.now = run_status(
        streams=[stream_status("a", condition=away), stream_status("c")],
        stages=[stage_status(restarts=3)],
        reloads=1,
    )
    history.sample()
    run.now = run_status(
        streams=[stream_status("a")], stages=[stage_status(restarts=3)], reload_error="line 3: bad"
    )
    history.sample()
    assert [(one.stream, one.text, one.urgent) for one in feed.after(0)] == [
        ("a", "waiting: nothing listens there", True),
        ("c", "added", False),
        ("c", "live", False),
        ("b", "removed", False),
        ("", "process of stage detector died, restarted 2 times", True),
        ("", "settings reloaded", False),
        ("a", "live again", False),
        ("c", "removed", False),
        ("", "settings reload refused: line 3: bad", True),
    ]


def test_sample_covers_the_frames_since_the_sample_before():
    run = StandIn()
    history = History(run, ActivityLog(10))
    history.sample()
    assert list(history.samples["yard"]) == []
    run.took_s = run.took_s + [0.1] * 100
    run.now = run_status(streams=[stream_status(delivered=1050, captured=1100)])
    history.sample()
    history.sample()
    first, second = history.samples["yard"]
    assert first.fps > 0
    assert first.p50_ms == pytest.approx(100, rel=0.1)
    assert first.p95_ms == pytest.approx(100, rel=0.1)
    assert (second.fps, second.p50_ms, second.p95_ms) == (0, None, None)
    run.now = run_status(streams=[stream_status(captured=1)])
    history.sample()
    assert list(history.samples["yard"]) == []  # another stream of the same name


@pytest.mark.parametrize(("share", "ms"), [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0)])
def test_percentile_lies_between_the_bounds_around_it(share, ms):
    took = [i / 1000 for i in range(1, 101)]
    counts = [sum(one <= bound for one in took) for bound in BOUNDS_S]
    assert percentile([*counts, 100], share) == pytest.approx(ms, rel=0.1)


def test_percentile_without_latencies_and_beyond_the_bounds():
    nothing = [0] * (len(BOUNDS_S) + 1)
    assert percentile(nothing, 0.5) is None
    assert percentile([*nothing[:-1], 4], 0.5) == round(BOUNDS_S[-1] * 1e3, 1)
    assert 0 < percentile([4] * (len(BOUNDS_S) + 1), 0.5) < 1
