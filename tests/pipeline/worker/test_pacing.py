"""A source, one stage, and a pacer between them, in a time of their own."""

import heapq
import random
from collections import deque

import pytest

from pipeline.frame import Span
from pipeline.worker.pacing import Pacer

MS = 1_000_000


class Line:
    """A source and a stage with so many replicas, and so many slots between them.

    Beside the stage, in its worker, stands another that does its work after it, in no time.
    """

    def __init__(self, interval_ms, work_ms, slots=3, replicas=1, paced=True, jitter=0.0):
        self.interval_ns, self.work_ms = interval_ms * MS, work_ms
        self.slots, self.paced, self.jitter = slots, paced, jitter
        self.free_ns = [0] * replicas
        self.pacer = Pacer({1: 0, 2: 0})
        self.random = random.Random(1)
        self.now_ns = 0
        self.seq = self.missed = 0
        self.under_way = []
        self.waits_ms = []
        """How long each delivered frame waited."""

    def run(self, seconds):
        """The source gives its images for so long; how many frames were delivered."""
        before = len(self.waits_ms)
        end_ns = self.now_ns + round(seconds * 1e9)
        offered = self._is_offered()
        while self.now_ns < end_ns:
            image_ns = self.now_ns + self.interval_ns
            # Whether an image finds a slot is settled before it comes.
            while self.under_way and self.under_way[0][0] <= image_ns:
                self.now_ns = self.under_way[0][0]
                self._return()
            offered = offered or self._is_offered(image_ns)
            self.now_ns = image_ns
            if offered:
                self._take()
                offered = False
            else:
                self.missed += 1
        return len(self.waits_ms) - before

    def _is_offered(self, by_ns=0):
        if len(self.under_way) == self.slots:
            return False
        return not self.paced or self.pacer.due_ns(self.seq) <= by_ns

    def _take(self):
        self.pacer.lent(self.seq, self.now_ns, self.missed, alone=not self.under_way)
        self.missed = 0
        i = min(range(len(self.free_ns)), key=self.free_ns.__getitem__)
        start_ns = max(self.now_ns, self.free_ns[i])
        work_ms = self.work_ms * (1 + self.jitter * self.random.uniform(-1, 1))
        end_ns = self.free_ns[i] = start_ns + round(work_ms * MS)
        self.under_way.append((end_ns, self.seq, self.now_ns, start_ns))
        self.under_way.sort()
        self.seq += 1

    def _return(self):
        end_ns, seq, captured_ns, start_ns = self.under_way.pop(0)
        spans = [
            Span(0, 0, captured_ns, captured_ns, captured_ns),
            Span(1, 1, start_ns, start_ns, end_ns),
            Span(2, 1, start_ns, end_ns, end_ns),
        ]
        self.waits_ms.append((start_ns - captured_ns) / MS)
        self.pacer.returned(seq, captured_ns, spans)


@pytest.mark.parametrize("work_ms", [50, 100, 350, 1000])
@pytest.mark.parametrize("interval_ms", [4, 17, 33, 40])
def test_a_slow_stage_gets_new_images_and_is_never_idle(interval_ms, work_ms):
    line = Line(interval_ms, work_ms)
    line.run(100 * work_ms / 1000)
    delivered = line.run(200 * work_ms / 1000)
    assert delivered >= 0.97 * 200
    waits_ms = sorted(line.waits_ms[-delivered:])
    # One interval, since it depends on when an image comes, and what noise there is.
    assert waits_ms[int(0.95 * delivered)] <= interval_ms + 12
    assert waits_ms[-1] <= 2 * interval_ms + 12


def test_without_pacing_frames_wait_one_turn_per_slot():
    line = Line(33, 100, paced=False)
    line.run(60)
    assert sorted(line.waits_ms)[len(line.waits_ms) // 2] > 150


@pytest.mark.parametrize(("work_ms", "slots", "replicas"), [(10, 3, 1), (30, 3, 1), (60, 4, 2)])
def test_with_stages_fast_enough_no_image_is_left_out(work_ms, slots, replicas):
    line = Line(33, work_ms, slots, replicas, jitter=0.05)
    line.run(60)
    assert line.seq >= 0.99 * 60_000 / 33


@pytest.mark.parametrize("replicas", [1, 2])
def test_work_that_varies_costs_little_age_and_idleness(replicas):
    paced, free = (
        Line(33, 150, replicas + 2, replicas, paced, jitter=0.3) for paced in (True, False)
    )
    assert paced.run(120) >= 0.95 * free.run(120)
    assert sum(paced.waits_ms) < 0.7 * sum(free.waits_ms)


def test_the_pace_follows_a_stage_that_gets_faster_or_slower():
    line = Line(33, 300)
    line.run(30)
    line.work_ms = 60
    line.run(10)
    assert line.run(20) >= 0.95 * 20_000 / 60
    line.work_ms = 300
    line.run(20)
    delivered = line.run(30)
    assert delivered >= 0.95 * 30_000 / 300
    assert max(line.waits_ms[-delivered:]) < 100


def test_after_a_gap_the_pace_recovers_soon():
    line = Line(33, 100)
    line.run(20)
    line.free_ns = [line.now_ns + 5_000 * MS]  # the stage has died, or a camera was away
    line.run(15)
    delivered = line.run(10)
    assert delivered >= 0.97 * 100
    assert max(line.waits_ms[-delivered:]) < 80


class Shared:
    """Cameras, and files that are always ready, whose frames one stage takes in turns."""

    def __init__(self, intervals_ms, work_ms, files=0, jitter=0.05, slots=3, paced=True):
        self.intervals_ms, self.work_ms, self.jitter = intervals_ms, work_ms, jitter
        self.slots, self.paced = slots, paced
        self.random = random.Random(1)
        self.queues = [deque() for _ in range(len(intervals_ms) + files)]
        self.pacers = [Pacer({1: 0}) for _ in intervals_ms]
        self.seqs, self.missed, self.under_way = ([0] * len(intervals_ms) for _ in range(3))
        self.offered = [True for _ in intervals_ms]
        self.turn, self.busy, self.now_ns = 0, False, 0
        self.events = [(k * 7 * MS, "image", k, None) for k in range(len(intervals_ms))]

    def run(self, seconds):
        """How many frames of each camera were delivered in so long."""
        self.delivered = [0 for _ in self.intervals_ms]
        end_ns = self.now_ns + round(seconds * 1e9)
        while self.now_ns < end_ns:
            self.now_ns, what, camera, frame = heapq.heappop(self.events)
            (self._image if what == "image" else self._return)(camera, frame)
            self._start()
        return self.delivered

    def _vary(self, ms, by):
        return self.now_ns + round(ms * MS * (1 + by * self.random.uniform(-1, 1)))

    def _offer(self, camera):
        due = not self.paced or self.pacers[camera].due_ns(self.seqs[camera]) <= self.now_ns
        if self.under_way[camera] < self.slots and due:
            self.offered[camera] = True

    def _image(self, camera, _):
        self._offer(camera)
        if self.offered[camera]:
            seq, alone = self.seqs[camera], not self.under_way[camera]
            self.pacers[camera].lent(seq, self.now_ns, self.missed[camera], alone)
            self.queues[camera].append((seq, self.now_ns))
            self.seqs[camera] += 1
            self.under_way[camera] += 1
            self.missed[camera], self.offered[camera] = 0, False
        else:
            self.missed[camera] += 1
        next_ns = self._vary(self.intervals_ms[camera], 0.02)
        heapq.heappush(self.events, (next_ns, "image", camera, None))

    def _start(self):
        for i in range(len(self.queues)):
            who = (self.turn + i) % len(self.queues)
            if not self.busy and (who >= len(self.intervals_ms) or self.queues[who]):
                self.turn, self.busy = who + 1, True
                frame = (*self.queues[who].popleft(), self.now_ns) if self.queues[who] else None
                end_ns = self._vary(self.work_ms, self.jitter)
                heapq.heappush(self.events, (end_ns, "return", who, frame))

    def _return(self, who, frame):
        self.busy = False
        if frame is None:
            return
        seq, captured_ns, start_ns = frame
        self.under_way[who] -= 1
        self.delivered[who] += 1
        capture = Span(0, 0, captured_ns, captured_ns, captured_ns)
        work = Span(1, 1, start_ns, start_ns, self.now_ns)
        self.pacers[who].returned(seq, captured_ns, [capture, work])
        self._offer(who)


@pytest.mark.parametrize(
    ("intervals_ms", "work_ms", "files", "jitter"),
    [
        ([17, 33, 100, 333], 60, 0, 0.05),
        ([33, 33, 33, 33], 60, 0, 0.4),
        ([17, 100], 80, 0, 0.05),
        ([33], 100, 1, 0.5),
        ([17], 60, 2, 0.5),
    ],
)
def test_streams_that_share_a_stage_get_as_much_of_it_as_without(
    intervals_ms, work_ms, files, jitter
):
    paced, free = (Shared(intervals_ms, work_ms, files, jitter, 3, p) for p in (True, False))
    paced.run(600)
    of_paced, of_free = paced.run(300), free.run(300)
    assert all(a >= 0.8 * b for a, b in zip(of_paced, of_free, strict=True)), (of_paced, of_free)
    if not files:
        assert sum(of_paced) >= 0.97 * sum(of_free)


def test_the_slowest_stage_counts_and_failed_frames_are_ignored():
    pacer = Pacer({1: 0, 2: 1, 3: 2})
    assert pacer.due_ns(0) == 0
    pacer.returned(0, 0, [Span(0, 0, 0, 0, 1)])
    assert pacer.due_ns(1) == 0
    for seq in range(60):
        at = seq * 100 * MS
        pacer.lent(seq, at, 2, alone=False)
        pacer.returned(
            seq,
            at,
            [
                Span(0, 0, at, at, at + MS),
                Span(1, 1, at + MS, at + MS, at + 11 * MS),
                Span(2, 2, at + 41 * MS, at + 41 * MS, at + 140 * MS),
                Span(3, 3, at + 141 * MS, at + 141 * MS, at + 142 * MS),
            ],
        )
    # Free at 41 + 100 ms after the last capture; 11 ms away; an image every 33 ms.
    due_ms = (pacer.due_ns(60) - 59 * 100 * MS) / MS
    assert due_ms == pytest.approx(141 - 11 - 33.3 - 2, abs=1.5)
