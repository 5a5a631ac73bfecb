"""Reports to the supervisor: one short line each, without waiting."""

import os

import msgspec

from pipeline.worker.reports import Report, ReportPipe, send_report


def test_a_report_is_one_short_line_however_long_the_text():
    reader, writer = os.pipe()
    report = Report(3, "log", "ä" * 5000 + "\n")
    send_report(writer, report)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    assert data.count(b"\n") == 1
    assert len(data) < 4096
    found = msgspec.json.decode(data, type=Report)
    assert (found.worker, found.kind) == (3, "log")
    assert found.text.endswith(" ...")


def test_a_report_does_not_wait_for_a_supervisor_that_does_not_read():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for _ in range(200):
        send_report(writer, Report(0, "log", "x" * 1000))
    os.close(reader)
    os.close(writer)


def test_reports_arrive_whole_though_they_are_read_in_parts():
    pipe = ReportPipe()
    line = msgspec.json.encode(Report(1, "log", "text")) + b"\n"
    os.write(pipe.write_fd, line + line[:5])
    assert [report.text for report in pipe.read()] == ["text"]
    assert pipe.read() == []
    os.write(pipe.write_fd, line[5:])
    assert [report.text for report in pipe.read()] == ["text"]
    pipe.close()


def test_a_report_that_was_cut_off_costs_no_other(caplog):
    pipe = ReportPipe()
    line = msgspec.json.encode(Report(2, "log", "text")) + b"\n"
    os.write(pipe.write_fd, b'{"worker":1,"ki\n' + line)
    assert [report.worker for report in pipe.read()] == [2]
    assert "report of a worker cut off" in caplog.text
    pipe.close()
