"""Differences between running and new settings, without a process."""

from dataclasses import replace

import msgspec
import pytest

from pipeline.graph.diff import changed_stages, changed_streams, needs_new_run
from pipeline.stage import Resolved, Settings, Stage
from tests.builders import graph


class Value(msgspec.Struct, frozen=True):
    value: int


class Known(Stage):
    """Tells others what it knows."""

    class Settings(Settings, frozen=True):
        value: int = 0
        replicas: int = 1

    @classmethod
    def resolve(cls, settings):
        return Resolved((Value(settings.value),), settings.replicas)

    def process(self, frame):
        pass


REGISTRY = {"known": "tests.pipeline.graph.test_diff:Known", "sink": "tests.builders:Sink"}
STAGES = {"a": {"use": "known"}, "b": {"use": "sink"}, "c": {"use": "sink", "after": "a"}}


def of(stages=STAGES, streams=("yard", "door"), **top):
    return graph(stages, streams, REGISTRY, **top)


def names(changes):
    return [node.name for node, _ in changes]


def test_another_confidence_concerns_every_stage_and_starts_no_new_run():
    old, new = of(confidence=0.4), of(confidence=0.5)
    assert not needs_new_run(old, new)
    assert names(changed_stages(old, new)) == ["a", "b", "c"]


def test_the_same_settings_change_nothing():
    assert not needs_new_run(of(), of())
    assert names(changed_stages(of(), of())) == []
    old = of()
    have = {stream.name: stream for stream in old.streams}
    changes = changed_streams(have, of().streams)
    assert changes == type(changes)()


@pytest.mark.parametrize(
    "stages",
    [
        {"a": {"use": "known"}, "b": {"use": "sink"}},
        STAGES | {"d": {"use": "sink"}},
        STAGES | {"c": {"use": "sink", "after": "b"}},
        STAGES | {"b": {"use": "known"}},
        STAGES | {"a": {"use": "known", "replicas": 2}},
        STAGES | {"a": {"use": "known", "process": "x"}},
    ],
)
def test_stages_that_stand_elsewhere_need_a_new_run(stages):
    assert needs_new_run(of(), of(stages))


@pytest.mark.parametrize("top", [{"placement": "separate"}, {"max_frame": "7680x4320"}])
def test_other_processes_or_slots_need_a_new_run(top):
    assert needs_new_run(of(), of(**top))


def test_streams_and_the_supervisors_settings_need_no_new_run():
    assert not needs_new_run(of(), of(streams=("yard",), supervisor={"hang_s": 3}))


def test_a_stage_changes_with_its_settings_and_with_offers_to_it():
    new = of(STAGES | {"a": {"use": "known", "value": 5}})
    # What `a` knows reaches the source too, which is never restarted for it.
    assert names(changed_stages(of(), new)) == ["a", "b", "c"]


def test_streams_are_removed_added_and_changed():
    old = of(streams={"yard": {}, "door": {"live": True}, "roof": {"max_age_ms": 5}})
    new = of(streams={"door": {"live": False}, "roof": {"max_age_ms": 6}, "shed": {}})
    have = {stream.name: replace(stream, index=stream.index + 7) for stream in old.streams}
    changes = changed_streams(have, new.streams)
    assert changes.removed == ["yard"]
    assert [stream.name for stream in changes.added] == ["shed"]
    assert [(s.name, s.index) for s in changes.changed] == [("door", 8), ("roof", 9)]
    assert msgspec.to_builtins(changes.changed[0].capture) == {"live": False}
    assert changes.changed[1].settings.max_age_ms == 6


def test_slots_have_to_wait_for_the_next_run():
    old, new = of(streams={"yard": {"slots": 3}}), of(streams={"yard": {"slots": 5}})
    changes = changed_streams({"yard": old.streams[0]}, new.streams)
    assert changes.other_slots == ["yard"]
    assert changes.changed == []


def test_a_stream_that_a_person_added_is_let_be():
    old = of(streams=("yard", "door"))
    have = {stream.name: replace(stream, requested=True) for stream in old.streams}
    assert changed_streams(have, of(streams=("yard",)).streams).removed == []
