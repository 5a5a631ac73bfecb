"""Metrics of a run: names, types, labels and help of all, and their values."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from stages.sinks.web.metrics import BUCKETS_S, exposition
from tests.golden_files import check_golden
from tests.stages.sinks.web.status_page import StandIn, stage_status


def samples_of(text, parser=parse):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser(text)
        for sample in family.samples
    }


def test_metrics_hold_ledger_latency_stages_and_states(page):
    found = samples_of(page.get("/metrics")[2].decode())
    yard = ("stream", "yard")

    def of(name, *labels):
        return found["eyeline_" + name, *sorted(labels)]

    lost = [
        v
        for k, v in found.items()
        if k[0] in ("eyeline_frames_dropped_total", "eyeline_frames_failed_total")
    ]
    assert sorted(lost) == [2, 5, 40]
    assert (
        of("frames_captured_total", yard)
        == 1000
        == (of("frames_delivered_total", yard) + sum(lost) + of("frames_in_flight", yard))
    )
    assert of("frames_dropped_total", yard, ("cause", "busy")) == 40
    assert of("frames_failed_total", yard, ("cause", "detector")) == 5
    assert of("latency_seconds_bucket", yard, ("le", "0.005")) == 1
    assert of("latency_seconds_bucket", yard, ("le", "0.03")) == 3
    assert of("latency_seconds_bucket", yard, ("le", "10.0")) == 3
    assert of("latency_seconds_bucket", yard, ("le", "+Inf")) == 4
    assert of("latency_seconds_count", yard) == 4
    assert of("latency_seconds_sum", yard) == pytest.approx(20.064)
    assert of("stream_state", yard, ("eyeline_stream_state", "live")) == 1
    assert of("stream_state", yard, ("eyeline_stream_state", "waiting")) == 0
    assert of("stream_away_seconds_total", yard) == 4.5
    assert of("stream_reconnects_total", yard) == 2
    assert of("stream_info", yard, ("decoder", "FFmpeg h264"), ("kind", "live")) == 1
    detector = ("stage", "detector")
    provider = ("provider", "CPUExecutionProvider")
    assert of("stage_info", detector, provider, ("use", "detector")) == 1
    assert of("stage_count", detector, ("what", "sent")) == 42
    assert of("stage_processed_total", detector) == 955
    assert of("stage_failed_total", detector) == 5
    assert of("stage_restarts_total", detector) == 1
    assert of("stage_busy_seconds", detector, ("quantile", "0.5")) == 0.012
    assert of("stage_workers", detector) == 2
    assert of("slots", yard) == 3
    assert of("uptime_seconds") == 60


def test_metrics_are_openmetrics_if_the_client_accepts_it(page):
    status, headers, body = page.get("/metrics", Accept="application/openmetrics-text")
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    found = samples_of(body.decode(), openmetrics)
    assert found["eyeline_frames_captured_total", ("stream", "yard")] == 1000


def test_only_valid_labels_of_a_stage_become_labels(opened):
    facts = {"stage": "x", "with space": "y", 'quo"te': "z", "fine": 'a"b\\c\nd'}
    page = opened(StandIn(stages=[stage_status(info=facts)]))
    found = samples_of(page.get("/metrics")[2].decode())
    info = next(dict(key[1:]) for key in found if key[0] == "eyeline_stage_info")
    assert info == {"stage": "detector", "use": "detector", "fine": 'a"b\\c\nd'}


def test_histogram_never_falls_while_workers_count(opened):
    run = StandIn()
    run.latency = lambda stream, bounds: ([5, 4, *[9] * (len(BUCKETS_S) - 2), 8], 1.0)
    found = samples_of(opened(run).get("/metrics")[2].decode())
    counts = [v for k, v in found.items() if k[0] == "eyeline_latency_seconds_bucket"]
    assert counts == sorted(counts)


@pytest.mark.golden
def test_names_types_labels_and_help_match_the_golden_file():
    text = exposition(StandIn(), viewers=3, accept="")[0].decode()
    found = []
    for family in parse(text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        header = f"{name} {family.type} {{{', '.join(sorted(labels))}}}"
        found.append(f"{header}\n    {family.documentation}\n")
    check_golden("metrics.txt", "".join(sorted(found)))
