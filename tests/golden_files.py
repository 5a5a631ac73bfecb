"""Texts that are kept in tests/golden, so that a change of words can be reviewed line by line.

`make golden` rewrites them: it runs the tests marked `golden` with EYELINE_GOLDEN=write.
"""

import os

from tests.builders import ROOT

FOLDER = ROOT / "tests" / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare a text with its golden file, or write the file if EYELINE_GOLDEN is `write`."""
    path = FOLDER / name
    if os.environ.get("EYELINE_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text(), f"{name} differs; if it is meant to, run `make golden`"
