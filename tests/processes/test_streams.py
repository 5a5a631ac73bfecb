"""Streams and settings that change while the run goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.builders import save_image
from tests.processes.runs import CLIP, GRAPH, Run

pytestmark = pytest.mark.processes

LIVE = (
    GRAPH.replace(
        "demo: {{source: {source}}}", "demo: {{source: {source}, mode: live, loop: true}}"
    )
    .replace("\nstages:", "\nplacement: separate\nstages:")
    .replace(
        "supervisor:",
        '  operator: {{use: "tests.processes.stages:Operator", after: ids, path: {out}/asked}}\n'
        "supervisor:",
    )
)


class Attended(Run):
    """A run with an operator."""

    def ask(self, request: object) -> object:
        """Have the operator ask something of the run; the answer."""
        answers = Path(self.folder / "asked.answers")
        before = len(answers.read_text().splitlines()) if answers.exists() else 0
        with (self.folder / "asked").open("a") as file:
            file.write(json.dumps(request) + "\n")
        self.wait_until(lambda: answers.exists() and answers.read_text().count("\n") > before)
        return json.loads(answers.read_text().splitlines()[before])

    def do(self, what: str, stream: str, **settings: object) -> object:
        more = {"settings": settings} if settings else {}
        return self.ask({"request": what, "stream": stream, **more})

    def stream(self, name: str) -> dict:
        status = self.ask("status")
        return next((s for s in status["streams"] if s["name"] == name), {})

    def events_of(self, stream: str) -> list[dict]:
        path = self.folder / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        events = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [event for event in events if event["stream"] == stream]

    def wait_for(self, stream: str, count: int) -> None:
        self.wait_until(lambda: len(self.events_of(stream)) >= count)

    def end(self) -> dict:
        self.process.send_signal(signal.SIGTERM)
        assert self.wait() == 0, self.stderr
        return self.summary["streams"]


def total(stream: dict) -> int:
    lost = sum(stream["dropped"].values()) + sum(stream["failed"].values())
    return stream["delivered"] + lost + stream["in_flight"]


@pytest.mark.soak
def test_info_and_counters_of_a_stage_are_kept_up_to_date(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 20)

        def ids():
            return next(stage for stage in run.ask("status")["stages"] if stage["name"] == "ids")

        run.wait_until(lambda: ids()["counts"]["boxes"] >= 40)
        run.wait_until(lambda: int(ids()["facts"]["highest"]) >= 40)
        run.end()


def test_a_stream_is_added_and_removed_while_another_goes_on(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 5)
        before = run.workers()
        assert run.do("add", "late", source=str(CLIP), frames=40) == ""
        run.wait_for("late", 40)
        run.wait_until(lambda: run.stream("late")["condition"]["state"] == "ended")
        status = run.stream("late")
        assert status["delivered"] == status["captured"] == 40
        assert (status["width"], status["height"]) == (768, 576)
        assert status["latency_ms"]["p50"] > 0
        assert set(status["hops_ms"]) >= {"capture", "boxes", "ids", "events"}
        assert run.do("remove", "late") == ""
        run.wait_until(lambda: run.stream("late") == {})
        after = run.workers()
        assert all(after[name] == pid for name, pid in before.items())
        summary = run.end()
    late = run.events_of("late")
    assert [event["frame"] for event in late] == list(range(40))
    ids = [box["id"] for event in late for box in event["objects"]]
    assert ids == list(range(len(ids)))
    assert summary["late#1"]["delivered"] == 40
    assert summary["late#1"]["in_flight"] == 0
    assert [event["frame"] for event in run.events_of("demo")] == list(
        range(summary["demo"]["delivered"])
    )
    assert summary["demo"]["captured"] == total(summary["demo"])


def test_an_added_stream_survives_the_death_of_every_worker(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 2)
        assert run.do("add", "late", source=str(CLIP), frames=150) == ""
        for count, name in enumerate(("ids", "boxes.1", "capture.late", "events", "pre"), 1):
            run.wait_for("late", count * 20)
            os.kill(run.workers()[name], signal.SIGKILL)
        run.wait_for("late", 150)
        summary = run.end()
    late = run.events_of("late")
    assert [event["frame"] for event in late] == list(range(150))
    ids = [box["id"] for event in late for box in event["objects"]]
    assert ids == list(range(len(ids)))
    assert summary["late"]["delivered"] == summary["late"]["captured"] == 150


def test_a_stream_that_cannot_be_added_is_refused_with_the_reason(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 1)
        assert "there is a stream named 'demo' already" in run.do("add", "demo", source=str(CLIP))
        assert "no such file" in run.do("add", "late", source=str(tmp_path / "none.mp4"))
        assert "unknown key" in run.do("add", "late", source=str(CLIP), colour="red")
        assert "missing" in run.do("add", "late", mode="live")
        assert "a name has letters" in run.do("add", "../late", source=str(CLIP))
        assert "no stream is named 'late'" in run.do("remove", "late")
        (tmp_path / "rubbish.mp4").write_bytes(b"no video at all" * 100)
        assert run.do("add", "rubbish", source=str(tmp_path / "rubbish.mp4")) == ""
        run.wait_until(lambda: "rubbish.mp4: cannot be read as a video" in run.stderr)
        run.wait_until(lambda: run.stream("rubbish") == {})
        run.wait_for("demo", len(run.events_of("demo")) + 3)
        run.end()


def test_a_paused_stream_gives_nothing_until_it_is_resumed(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 2)
        assert run.do("pause", "demo") == ""
        run.wait_until(lambda: run.stream("demo")["condition"]["state"] == "paused")
        run.wait_until(lambda: run.stream("demo")["in_flight"] == 0)
        assert run.do("add", "late", source=str(CLIP), frames=40) == ""
        run.wait_for("late", 1)
        captured = run.stream("demo")["captured"]  # with the image that was in hand
        run.wait_for("late", 40)
        assert run.stream("demo")["captured"] == captured
        assert run.do("resume", "demo") == ""
        run.wait_until(lambda: run.stream("demo")["captured"] > captured + 3)
        summary = run.end()
    assert summary["demo"]["captured"] == total(summary["demo"])


def test_lines_of_a_removed_stream_outlive_a_crash_of_the_sink(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 3)
        assert run.do("add", "late", source=str(CLIP), frames=40) == ""
        run.wait_for("late", 40)
        run.do("pause", "demo")
        run.wait_until(lambda: run.stream("demo")["in_flight"] == 0)
        assert run.do("add", "later", source=str(CLIP), frames=20) == ""
        run.wait_for("later", 20)
        for name in ("late", "later"):
            assert run.do("remove", name) == ""
            run.wait_until(lambda name=name: run.stream(name) == {})
        before = run.workers()["events"]
        os.kill(before, signal.SIGKILL)
        run.wait_until(lambda: run.workers().get("events", before) != before)
        assert run.do("add", "later", source=str(CLIP), frames=10) == ""
        run.do("resume", "demo")
        run.wait_for("later", 30)
        run.end()
    assert len(run.events_of("late")) == 40
    assert [e["frame"] for e in run.events_of("later")] == [*range(20), *range(10)]
    frames = [event["frame"] for event in run.events_of("demo")]
    assert frames == list(range(len(frames)))


def test_no_stream_is_added_where_an_ordered_stage_shares_with_capture(tmp_path):
    graph = LIVE.replace("placement: separate\n", "")
    for use in ("capture", "fault", "events", '"null"', '"tests'):
        graph = graph.replace(f"use: {use}", f"process: one, use: {use}")
    graph = graph.replace('stages:Boxes"', 'stages:Boxes", replicas: 1')
    with Attended(tmp_path, graph=graph) as run:
        run.wait_for("demo", 3)
        refusal = run.do("add", "late", source=str(CLIP))
        assert refusal.startswith("stages.ids: an ordered stage cannot share the process of ")
        assert run.stream("late") == {}
        run.wait_for("demo", len(run.events_of("demo")) + 3)
        run.end()


@pytest.mark.soak
def test_an_image_too_large_for_an_added_stream_ends_that_stream_alone(tmp_path):
    (tmp_path / "large").mkdir()
    save_image(tmp_path / "large" / "0.png", 64, 48)
    save_image(tmp_path / "large" / "1.png", 4800, 3600)
    graph = LIVE.replace("streams:", "max_frame: 768x576\nstreams:", 1)
    with Attended(tmp_path, graph=graph) as run:
        run.wait_for("demo", 3)
        assert run.do("add", "large", source=str(tmp_path / "large"), mode="lossless") == ""
        run.wait_until(lambda: "large: removed" in run.stderr)
        assert (
            "streams.large: an image is larger than `max_frame` (found max_frame 768x576)"
            in run.stderr
        )
        run.wait_for("demo", len(run.events_of("demo")) + 5)
        summary = run.end()
    assert summary["demo"]["captured"] == total(summary["demo"])


def test_new_settings_restart_only_the_changed_stages(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 5)
        before = run.workers()
        config = tmp_path / "config.yaml"
        text = config.read_text()
        clip = f"demo: {{source: {CLIP}, mode: live, loop: true}}"
        late = f"{clip}\n  late: {{source: {CLIP}, frames: 20}}"
        config.write_text(
            text.replace("post:    {use: fault", "post:    {use: fault, delay_ms: 1").replace(
                clip, late
            )
        )
        run.process.send_signal(signal.SIGHUP)
        run.wait_until(lambda: "settings reloaded: " in run.stderr)
        assert "settings reloaded: stage post changed, stream late added" in run.stderr
        run.wait_for("late", 20)
        run.wait_until(lambda: run.workers().get("post", 0) not in (0, before["post"]))
        after = run.workers()
        same = {name: pid for name, pid in before.items() if name != "post"}
        assert {name: after[name] for name in same} == same
        config.write_text(text.replace("use: fault", "use: fualt"))
        run.process.send_signal(signal.SIGHUP)
        run.wait_until(lambda: "settings not reloaded" in run.stderr)
        assert "did you mean 'fault'?" in run.stderr
        run.wait_for("demo", len(run.events_of("demo")) + 5)
        config.write_text(text)
        run.process.send_signal(signal.SIGHUP)
        run.wait_until(lambda: "stream late removed" in run.stderr)
        run.wait_until(lambda: run.stream("late") == {})
        summary = run.end()
    assert [event["frame"] for event in run.events_of("demo")] == list(
        range(summary["demo"]["delivered"])
    )
    assert summary["demo"]["captured"] == total(summary["demo"])


def test_a_stream_with_another_source_restarts_and_costs_no_other(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for i in range(8):
            save_image(tmp_path / name / f"{i}.png", 64, 48, value=i)
    (tmp_path / "damaged.mp4").write_bytes(CLIP.read_bytes()[:3000])
    demo = "demo: {{source: {source}, mode: live, loop: true}}"
    other = "  other: {{{{source: {}, mode: lossless{}}}}}"
    graph = LIVE.replace(demo, demo + "\n" + other.format(tmp_path / "first", ", loop: true"))
    with Attended(tmp_path, graph=graph) as run:
        config = tmp_path / "config.yaml"

        def change(old, new):
            before = run.stderr.count("settings reloaded: stream other changed")
            config.write_text(config.read_text().replace(old, new))
            run.process.send_signal(signal.SIGHUP)
            reloaded = "settings reloaded: stream other changed"
            run.wait_until(lambda: run.stderr.count(reloaded) > before)

        run.wait_for("demo", 5)
        run.wait_for("other", 20)
        change("/first, mode: lossless, loop: true", "/second, mode: lossless")

        def frames():
            return [event["frame"] for event in run.events_of("other")]

        run.wait_until(lambda: frames()[-8:] == [*range(8)] and len(frames()) > 8)
        begin = len(frames()) - 8
        assert frames() == [*range(begin), *range(8)], "whole, and after the last of the first"
        change("/second", "/damaged.mp4")
        run.wait_until(lambda: "damaged.mp4: " in run.stderr)
        run.wait_until(lambda: run.stream("other") == {})
        config.write_text(config.read_text().replace("/damaged.mp4", "/first"))
        run.process.send_signal(signal.SIGHUP)
        run.wait_for("other", begin + 16)
        run.wait_for("demo", len(run.events_of("demo")) + 5)
        summary = run.end()
    for stream in summary.values():
        assert stream["captured"] == total(stream)
        assert stream["in_flight"] == 0
    assert [summary[f"other#{i}"]["delivered"] for i in (1, 2)] == [begin, 8]


@pytest.mark.soak
def test_new_settings_amid_a_frame_have_the_frame_processed_again(tmp_path):
    graph = GRAPH.replace(
        "post:    {{use: fault", 'post: {{use: "tests.processes.stages:Long", work_s: 60'
    ).replace("supervisor:", "placement: separate\nsupervisor:")
    with Run(tmp_path, graph=graph) as run:
        run.wait_until(lambda: "post" in run.workers())
        config = tmp_path / "config.yaml"
        time.sleep(1)  # until its first frame is there
        config.write_text(config.read_text().replace("work_s: 60", "work_s: 0"))
        run.process.send_signal(signal.SIGHUP)
        assert run.wait() == 0, run.stderr
        assert "settings reloaded: stage post changed" in run.stderr
    assert [line["frame"] for line in run.lines] == list(range(300))
    assert run.summary["stages"]["post"]["restarts"] == 0
    assert run.ledger["delivered"] == 300


def test_another_graph_starts_a_new_run_in_the_same_process(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 5)
        config = tmp_path / "config.yaml"
        text = config.read_text()
        config.write_text(text.replace("  end: ", "  more:    {use: fault, after: ids}\n  end: "))
        run.process.send_signal(signal.SIGHUP)
        run.wait_until(lambda: "more" in run.workers())
        run.wait_until(lambda: run.stream("demo").get("delivered", 0) > 3)
        summary = run.end()
    assert "graph changed; restarting the run" in run.stderr
    assert summary["demo"]["captured"] == total(summary["demo"])


def held(run: Attended) -> dict[str, tuple[int, int]]:
    """Open descriptors and mapped arenas of each process."""
    found = {}
    for name, pid in {**run.workers(), "supervisor": run.process.pid}.items():
        maps = Path(f"/proc/{pid}/maps").read_text().count("eyeline:")
        found[name] = (len(os.listdir(f"/proc/{pid}/fd")), maps)
    return found


@pytest.mark.soak
def test_streams_that_come_and_go_leave_nothing_behind(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 5)
        counts = []
        for turn in range(60):
            assert run.do("add", "late", source=str(CLIP), frames=5) == ""
            run.wait_until(lambda: run.stream("late").get("delivered", 0) == 5)
            assert run.do("remove", "late") == ""
            run.wait_until(lambda: run.stream("late") == {})
            if turn in (9, 59):
                run.wait_for("demo", len(run.events_of("demo")) + 10)
                counts.append(held(run))
        run.end()
    early, late = counts
    assert {name: maps for name, (_, maps) in late.items()} == {
        name: maps for name, (_, maps) in early.items()
    }
    # A connection of the last stream may be closing at this moment; fifty streams may not.
    assert all(abs(late[name][0] - fds) <= 4 for name, (fds, _) in early.items()), counts


@pytest.mark.soak
def test_added_streams_that_ended_are_released_after_a_minute(tmp_path):
    with Attended(tmp_path, graph=LIVE) as run:
        run.wait_for("demo", 5)
        counts = []
        for turn in range(2):  # the first ones make what is made once
            for number in range(10):
                name = f"late{turn}_{number}"
                assert run.do("add", name, source=str(CLIP), frames=5) == ""
                run.wait_for(name, 5)
            assert run.stream(f"late{turn}_9") != {}
            ended = time.monotonic()
            while run.stream(f"late{turn}_9") != {}:
                assert time.monotonic() - ended < 120, "it is not forgotten"
                time.sleep(1)
            run.wait_for("demo", len(run.events_of("demo")) + 10)
            counts.append(held(run))
        run.end()
    early, late = counts
    assert {name: maps for name, (_, maps) in late.items()} == {
        name: maps for name, (_, maps) in early.items()
    }
    assert all(abs(late[name][0] - fds) <= 4 for name, (fds, _) in early.items()), counts


@pytest.mark.soak
def test_a_fast_stream_does_not_starve_a_slow_one(tmp_path):
    for name in ("fast", "other", "slow"):
        (tmp_path / name).mkdir()
        for i in range(5):
            save_image(tmp_path / name / f"{i}.png", 64, 48, value=i)
    folder = "source: {out}/{name}, mode: live, loop: true, fps: {fps}"
    streams = "\n".join(
        f"  {name}: {{{{{folder.format(out=tmp_path, name=name, fps=fps)}}}}}"
        for name, fps in (("fast", 60), ("other", 60), ("slow", 3))
    )
    # One detector that manages 20 frames per second in all, where 123 come.
    graph = LIVE.replace("  demo: {{source: {source}, mode: live, loop: true}}", streams).replace(
        '"tests.processes.stages:Boxes"', '"tests.processes.stages:Boxes", replicas: 1, work_ms: 50'
    )
    with Attended(tmp_path, graph=graph) as run:
        run.wait_for("slow", 12)
        summary = run.end()
    fast, other, slow = (summary[name] for name in ("fast", "other", "slow"))
    delivered = [stream["delivered"] for stream in (fast, other)]
    assert min(delivered) >= 0.6 * max(delivered), "those that want as much get as much"
    assert fast["captured"] == total(fast)
    assert slow["captured"] == total(slow)
    assert fast["dropped"]["busy"] > fast["delivered"]
    assert slow["dropped"].get("busy", 0) <= slow["captured"] // 10


@pytest.mark.soak
def test_sinks_in_one_process_cost_a_camera_no_more_than_their_work(tmp_path):
    (tmp_path / "folder").mkdir()
    for i in range(5):
        save_image(tmp_path / "folder" / f"{i}.png", 64, 48, value=i)
    graph = """
        streams:
          demo: {{source: {source}, mode: live, loop: true, fps: 60}}
        stages:
          capture: {{use: capture}}
          boxes: {{use: "tests.processes.stages:Boxes", work_ms: 5, process: detector}}
          draw: {{use: fault, after: boxes, delay_ms: 30, process: sinks}}
          events: {{use: events, after: boxes, path: {out}/events.jsonl, process: sinks}}
    """
    with Attended(tmp_path, source=tmp_path / "folder", graph=graph) as run:
        run.wait_for("demo", 200)
        demo = run.end()["demo"]
    assert demo["captured"] == total(demo)
    # The sinks are at work while every other image comes: no reason to miss more than those.
    assert demo["delivered"] >= 0.4 * demo["captured"], demo
