"""The commands of run.py, one file each, and what they share.

This folder belongs to run.py: it may import everything, and nothing else imports it. The module of
a command has two functions: `add_arguments(parser)` and `main(args) -> exit status`.
"""

from typing import NamedTuple


class Command(NamedTuple):
    """A command in the table."""

    module: str
    help: str


COMMANDS = {
    "run": Command("pipeline.commands.run", "run the pipeline (the default command)"),
    "check": Command("pipeline.commands.check", "check the settings and draw the graph"),
    "bench": Command("pipeline.commands.bench", "measure the pipeline against its limits"),
    "evaluate": Command("pipeline.commands.evaluate", "measure the stages on a labelled data set"),
    "train": Command("pipeline.commands.train", "train a model on labelled images"),
    "models": Command("pipeline.commands.models", "list, inspect, fetch or verify models"),
    "reload": Command("pipeline.commands.reload", "make a running daemon reload its settings"),
    "schema": Command("pipeline.commands.schema", "print the JSON schema of the settings"),
    "service": Command(
        "pipeline.commands.service", "install, remove or show Eyeline as a systemd service"
    ),
}
