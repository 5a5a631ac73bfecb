"""The facts that the supervisor publishes in shared memory."""

import sys
import threading

from pipeline.memory.run_info import RunInfo, SharedRunInfo


def test_a_reader_never_sees_half_an_update():
    run_info = SharedRunInfo()
    long = [RunInfo(config=letter * 5000) for letter in "ab"]
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for info in long:
                run_info.post(info)

    writer = threading.Thread(target=write)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that the two meet in the middle of everything
    writer.start()
    try:
        seen: set[str] = set()
        for reads in range(200_000):  # until the writer has had its turns too
            seen.add(run_info.read().config)
            if reads >= 2000 and len(seen) > 1:
                break
    finally:
        stop.set()
        writer.join()
        sys.setswitchinterval(before)
    assert seen <= {"", "a" * 5000, "b" * 5000}
    assert len(seen) > 1


def test_facts_that_are_too_long_are_not_published(monkeypatch):
    run_info = SharedRunInfo()
    run_info.post(RunInfo(config="first"))
    monkeypatch.setattr("pipeline.memory.run_info.MAX_BYTES", 1000)
    run_info.post(RunInfo(config="x" * 2000))
    assert run_info.read().config == "first"
