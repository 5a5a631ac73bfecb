"""Commands for a trained model, and a settings file for a classifier of crops."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from models.training.trainer import Finished

OBJECTS = "objects.yaml"
SETTINGS = """\
# Names each object that the detector finds, by the model that was trained on crops of them:
#   python run.py {path} --source 0
# `labels: [person]` limits it to some labels of the detector; docs/classify.md has all settings.

streams:
  camera: {{source: 0}}

stages:
  capture:    {{use: capture}}
  preprocess: {{use: preprocess}}
  detector:   {{use: detector, model: ssdlite_mobilenet_v2}}
  nms:        {{use: nms}}
  tracker:    {{use: tracker}}
  name:                               # cut as the crops were; the score is that of the card
    use: classify_objects
    model: {model}
    margin: 0
    min_score: {score}
  window:     {{use: window}}
"""


def next_steps(args: argparse.Namespace, finished: Finished) -> dict[str, str]:
    """Return what can be done with the model -> the command.

    Beside a classifier of crops it writes a settings file, in which a detector finds the objects.
    """
    folder, card = finished.model.parent, shlex.quote(str(finished.card))
    run = f"python run.py --model {card} --source 0"
    if finished.method.needs == "class" and (folder / "crops").exists():
        where = shlex.quote(str(folder / "crops" / "test"))
        score = finished.record.thresholds.get("score", 0.5)
        settings = write_settings(folder / OBJECTS, finished.card, score)
        run = f"python run.py {shlex.quote(str(settings))} --source 0"
    else:
        parts = shlex.quote(f"{folder / 'parts.json'}:test")
        where = f"{shlex.quote(args.data[0])} --split {parts}"
        where += "".join(f" --map {shlex.quote(str(path))}" for path in args.map)
    return {
        "Run it": run,
        "Try it on a picture": f"python run.py models inspect {card} --try PICTURE.jpg",
        "Measure it again on the test images": f"python run.py evaluate {where} --model {card}",
        "Check that it gives the same outputs on this machine": (
            f"python run.py models verify {card}"
        ),
    }


def write_settings(path: Path, card: Path, score: float) -> Path:
    """Write the settings file of a classifier of crops, and return its path."""
    # JSON's quotes are YAML's too, whatever is in the path.
    model = json.dumps(str(card.resolve()))
    path.write_text(SETTINGS.format(path=path, model=model, score=score), "utf-8")
    return path
