"""A run contacts only the hosts that its settings name, and leaves nothing in the home folder."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.builders import CLIP, ROOT


def run(home, *options, before=()):
    """Run the embedded model on the clip, with a home folder of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment.pop("XDG_CACHE_HOME", None)
    command = [*before, sys.executable, ROOT / "run.py", "--source", CLIP, "--sink", "null", "-q"]
    done = subprocess.run(
        [str(word) for word in (*command, *options)],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
def test_a_run_leaves_no_file_in_the_home_folder(tmp_path):
    run(tmp_path, "--frames", "5")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "module", ["models", "models.runtime", "pipeline.commands.models", "stages.inference.detector"]
)
def test_telemetry_is_disabled_before_onnxruntime_is_imported(module):
    code = (
        f"import os, sys, {module}\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "0"},
        check=True,
    )


def foreign(trace):
    """Lines of a trace of system calls in which another host is written to or asked for."""
    addressed = re.compile(r"sin6?_addr|sin6?_port")
    own = re.compile(r'"127\.|"::1"|"0\.0\.0\.0"|"::"')
    return [line for line in trace.splitlines() if addressed.search(line) and not own.search(line)]


@pytest.mark.live
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_run_contacts_no_host(tmp_path):
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    strace = ["strace", "-f", "-qq", "-s", "80", "-e", calls, "-o", trace]
    # In real time: what a library sends, it may send seconds after it was loaded.
    run(home, "--live", "--frames", "120", before=strace)
    assert trace.stat().st_size
    assert foreign(trace.read_text()) == []
    assert list(home.rglob("*")) == []


def test_a_trace_is_searched_for_hosts_of_every_form():
    lines = [
        '1 connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("9.9.9.9")}, 16)',
        '1 sendto(3, "x", 1, 0, {sa_family=AF_INET6, sin6_port=htons(5), sin6_addr="2::1"}, 28)',
        '1 connect(3, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("127.0.0.1")}, 16)',
        '1 connect(3, {sa_family=AF_UNIX, sun_path=@"x"}, 16)',
    ]
    assert foreign("\n".join(lines)) == lines[:2]
