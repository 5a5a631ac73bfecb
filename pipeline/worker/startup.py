"""The first and the last steps of every worker's process: a fork of the supervisor.

`work` sets up the process, runs the worker, and turns the way it ends into reports and an exit
status.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import traceback

import setproctitle

from pipeline.errors import DeviceFailed, EyelineError, SetupError, StuckSource
from pipeline.graph.graph import StreamSpec, WorkerSpec
from pipeline.stage_errors import error_line
from pipeline.worker.capture_worker import CaptureWorker
from pipeline.worker.reports import (
    EXIT_DEVICE,
    EXIT_FATAL,
    EXIT_RENEW,
    PipeLog,
    Reporter,
)
from pipeline.worker.worker import Shared, Terminated, Worker

_PR_SET_PDEATHSIG = 1


def work(shared: Shared, spec: WorkerSpec, stream: StreamSpec | None) -> int:
    """Run a worker to its end, in a process of its own, and return the exit status.

    Args:
        shared: state that all workers share.
        spec: the worker.
        stream: stream of a capture worker; None for other workers.
    """
    reporter = Reporter(shared.report_fd, spec.index)
    _set_up_process(shared, spec, reporter)
    worker = Worker(shared, spec) if stream is None else CaptureWorker(shared, spec, stream)
    try:
        worker.open()
        worker.loop()
    except StuckSource as error:
        reporter.send("renew", str(error))
        os._exit(EXIT_RENEW)  # a normal exit would wait for the thread that is stuck in a library
    except DeviceFailed as error:
        reporter.send("failure", str(error))
        os._exit(EXIT_DEVICE)  # closing the objects of a broken device may never return
    except Terminated:
        return 0
    except EyelineError as error:
        reporter.send("setup" if isinstance(error, SetupError) else "fatal", str(error))
        return EXIT_FATAL
    except Exception as error:
        logging.debug("%s", traceback.format_exc())
        reporter.send("fatal", f"{spec.name}: {error_line(error)}")
        return EXIT_FATAL
    finally:
        worker.close()
    return 0


def _set_up_process(shared: Shared, spec: WorkerSpec, reporter: Reporter) -> None:
    """Tie the process to the supervisor: its death, its signals, its log."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shared.supervisor_pid:
        os._exit(EXIT_FATAL)  # the supervisor died before the call above
    setproctitle.setproctitle(spec.title)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)  # the supervisor alone handles Ctrl-C
    faulthandler.enable(os.dup(2))  # a source may catch what libraries write to 2
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    logging.basicConfig(level=shared.log_level, handlers=[PipeLog(reporter)], force=True)
    if "cv2" in sys.modules:
        # Stages are the unit of parallelism; threads inside one would compete for the cores.
        sys.modules["cv2"].setNumThreads(1)
