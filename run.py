#!/usr/bin/env python3
"""Eyeline's command line: reads settings, checks them, runs the pipeline. See `run.py --help`."""

from __future__ import annotations

import os
import signal
import sys

for _fd in range(3):
    # A daemon may start with some of these closed; no socket must get their numbers.
    try:
        os.fstat(_fd)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _cannot_start(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Print in one line why the imports below fail, and exit with status 2."""
    root = os.path.dirname(os.path.abspath(__file__))
    version = sys.version.partition(" ")[0]
    python = os.path.join(root, ".venv", "bin", "python")
    words = " ".join(str(error).split())[:120]
    if sys.version_info < (3, 11):  # noqa: UP036 - only here an older version can run
        text = f"Eyeline needs Python 3.11 or newer (found {version}); install one"
    elif "Too many" in words or "memory" in words or issubclass(kind, MemoryError | RuntimeError):
        text = f"cannot start ({kind.__name__}: {words}); check the limits of this shell, ulimit -a"
    elif not isinstance(error, ImportError | OSError):
        text = f"cannot start ({kind.__name__}: {words}); correct that file, or check it out again"
    elif os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(root, ".venv")):
        text = f"a package is damaged or missing ({words}); remove .venv, then run `make install`"
    else:
        text = f"{words} in {sys.executable}; run `make install`, then {python} run.py"
    print(f"run.py: {text}", file=sys.stderr, flush=True)
    os._exit(2)


if __name__ == "__main__":
    sys.excepthook = _cannot_start  # until main() has its own guard
    # Until the supervisor handles signals: no process has been started that would have to end.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    # Names of files, arguments and texts are UTF-8 whatever the locale says, as OpenCV takes them;
    # Python decides this before its first line, and so must be started again.
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

# Before numpy and OpenCV are imported: stages are the unit of parallelism, so libraries start no
# threads (the supervisor could not fork safely if they did), and the messages of FFmpeg and OpenCV
# on stderr are replaced by our own.
for _name, _value in (
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
    ("OPENCV_LOG_LEVEL", "OFF"),
    ("OPENCV_FFMPEG_LOGLEVEL", "-8"),  # see stages/capture/opencv_live.py, which reads its messages
    ("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28)),  # of an image; more are refused unread
    ("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1"),  # seconds; a silent webcam cannot be interrupted
):
    os.environ.setdefault(_name, _value)

import traceback

from pipeline.commands.arguments import parse
from pipeline.commands.terminal import print_error, stderr_ignoring_hangup
from pipeline.errors import EyelineError, RunError
from pipeline.stage_errors import error_line, place_of
from pipeline.supervisor.lifecycle import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SETUP


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for word in argv:
        if any("\ud800" <= c <= "\udfff" for c in word):
            print_error("an argument is not text in UTF-8; rename the file, or write it in UTF-8")
            return EXIT_SETUP
    args, command = parse(argv)
    # So that `use: my_package.my_module:MyStage` finds modules in the working directory.
    sys.path.append("")
    verbose = bool(vars(args).get("verbose"))
    try:
        status = int(command.main(args))
        sys.stdout.flush()
        return status
    except RunError as error:
        print_error(error)
        return EXIT_FAILED
    except EyelineError as error:
        print_error(error)
        return EXIT_SETUP
    except BrokenPipeError:
        return EXIT_FAILED
    except OSError as error:  # no memory, no descriptors, a full disk behind standard output
        _show_traceback(verbose)
        print_error(f"{error.filename or place_of(error)}: {error.strerror or error}")
        os._exit(EXIT_FAILED)  # the interpreter would flush the buffers again, and fail again
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # a defect; the supervisor has stopped and reaped its processes
        _show_traceback(verbose)
        print_error(f"{place_of(error)}: {error_line(error)}")
        return EXIT_FAILED


def _show_traceback(verbose: bool) -> None:
    """Print where an error was raised, if `--verbose` asks for it."""
    if verbose:
        traceback.print_exc()


if __name__ == "__main__":
    sys.excepthook = sys.__excepthook__
    sys.stderr = stderr_ignoring_hangup(2, sys.stderr.encoding)
    sys.exit(main())
