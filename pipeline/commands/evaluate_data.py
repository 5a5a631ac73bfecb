"""The data set of `run.py evaluate`, in the form in which its model is measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from models import zoo
from models.datasets.base import DataSet
from models.datasets.class_maps import with_class_maps
from models.datasets.main_objects import main_objects
from models.datasets.relabel import relabel
from models.errors import DataError, DataFaults, ModelError
from pipeline.commands.label_maps import LabelMap, read_maps
from pipeline.commands.terminal import print_error
from pipeline.errors import SetupError
from stages.capture.dataset import DatasetSettings, read_data


class Data(NamedTuple):
    """A data set to measure with."""

    data: DataSet
    main: DataSet | None
    """Its images with one main object, with that object alone; None: the model does not give one
    object per image, or no image has one."""


def prepare(args: argparse.Namespace, settings: DatasetSettings, folder: Path) -> Data:
    """Read a data set with its labels mapped.

    Masks of objects become maps of classes for a model that gives these.

    Args:
        args: arguments of the command.
        settings: how it is read.
        folder: empty folder for maps of classes.

    Raises:
        SetupError: it cannot be read, or does not fit the map or the model.
    """
    data, mapping = _read(settings), read_maps(args.map)
    try:
        task = _task_of(args) if data.task == "detect" else None
        main = _main(data, mapping) if task == "localize" else None
        if mapping:
            data = relabel(data, mapping)
        if task == "semantic":
            data = with_class_maps(data, folder)
    except ModelError as error:
        raise SetupError(str(error)) from None
    return Data(data, main)


def _read(settings: DatasetSettings) -> DataSet:
    """Read the data set; where it has several faults, all are printed.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        return read_data(settings)
    except SetupError as error:
        if isinstance(error.__cause__, DataFaults) and len(error.__cause__.faults) > 1:
            for line in error.__cause__.faults:
                print_error(line)
            raise SetupError(
                f"{settings.data}: {len(error.__cause__.faults)} faults, listed above; correct them"
            ) from None
        raise


def _task_of(args: argparse.Namespace) -> str | None:
    """Return the task of the only model of the arguments; None: there is none, or it is wrong."""
    if args.config is not None or len(args.model or ()) != 1:
        return None
    stage, equals, rest = args.model[0].partition("=")
    try:
        return zoo.resolve(rest if equals and stage == "detector" else args.model[0]).task
    except ModelError:
        return None  # the graph is not built either, and that error says where the model is named


def _main(data: DataSet, mapping: LabelMap) -> DataSet | None:
    # Before labels are left out: an object is no main one beside a larger one of another label.
    try:
        found = main_objects(data)
    except DataError:
        return None
    return relabel(found, mapping) if mapping else found
