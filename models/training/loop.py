"""The loop of training: steps, a checkpoint every few seconds, the best epoch kept, early stop.

Everything that a step draws follows from the seed and the number of the step, and checkpoints hold
weights and momenta exactly: a run that is killed and continued ends with the same bytes.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import TrainingError
from models.training.method import Figures

CHECKPOINT_S = 10.0
"""Time between two checkpoints."""
CLIP_NORM = 10.0
"""Length limit of the gradient, so that one odd batch does not undo the training."""
WARM_UP = 0.1
"""Part of the steps in which the rate rises to its full value."""


class Plan(NamedTuple):
    """Length and rates of a training."""

    epochs: int
    steps: int
    """Steps of an epoch."""
    rates: tuple[float, ...]
    """Learning rate of each group of parameters."""
    starts: tuple[float, ...]
    """Part of the steps after which each group begins to learn."""
    decay: float
    patience: int
    """Epochs without a better figure after which training ends."""
    seed: int
    key: str
    """Text that differs where a checkpoint would not fit."""


class Loop:
    """Trains a network.

    Args:
        net: the network; only the parameters of `groups` are trained.
        groups: parameters that have a learning rate in common.
        plan: how long and how fast.
        path: file of the checkpoint.
        device: cpu or cuda; on a GPU that has it, bfloat16 is used where it is exact enough.
    """

    def __init__(
        self,
        net: nn.Module,
        groups: Sequence[Sequence[nn.Parameter]],
        plan: Plan,
        path: Path,
        device: str,
    ) -> None:
        self._net, self._plan, self._path, self._device = net, plan, path, device
        self._parameters = [p for group in groups for p in group]
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group), "lr": 0.0} for group in groups], weight_decay=plan.decay
        )
        self.step = 0
        self.curves: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        """Sums of the losses of the epoch under way."""
        self._best: dict[str, torch.Tensor] = {}
        self.best_epoch = -1

    def run(
        self,
        loss: Callable[[int, int], Mapping[str, torch.Tensor]],
        measure: Callable[[], Figures],
        merit: Callable[[Figures], Sequence[float]],
        report: Callable[[int, str], None],
    ) -> None:
        """Train until the end, and leave the network with the weights of its best epoch.

        Args:
            loss: returns the terms of the loss of a step, of an epoch and a number in it.
            measure: returns the figures on the validation images.
            merit: returns the values of figures that decide which epoch is best; a later one
                decides where those before it are equal.
            report: called after each step with its number and the latest losses and figures.

        Raises:
            TrainingError: the loss is no number.
        """
        plan = self._plan
        self._load()
        saved = time.monotonic()
        while not self._is_over():
            epoch, number = divmod(self.step, plan.steps)
            self._learn(loss, epoch, number)
            report(self.step, self._text())
            if number == plan.steps - 1:
                self._end_epoch(measure(), merit)
            if number == plan.steps - 1 or time.monotonic() > saved + CHECKPOINT_S:
                self._save()
                saved = time.monotonic()
        self._net.load_state_dict(self._best, strict=False)

    @property
    def best(self) -> Figures:
        """Return the figures of the best epoch so far."""
        found = self.curves[self.best_epoch]
        return {name: value for name, value in found.items() if not name.startswith("loss ")}

    def time_step(self, loss: Callable[[int, int], Mapping[str, torch.Tensor]]) -> float:
        """Return the seconds of a step; the network is as before afterwards."""
        before = copy.deepcopy(self._net.state_dict())
        self._learn(loss, 0, 0)
        start = time.monotonic()
        self._learn(loss, 0, 1 % self._plan.steps)
        took = time.monotonic() - start
        self._net.load_state_dict(before)
        self._optimizer.state.clear()
        self._sums.clear()
        self.step = 0
        return took

    def _is_over(self) -> bool:
        """Return whether the last epoch has ended, or the figure does not get better any more."""
        epochs = len(self.curves)
        return epochs >= self._plan.epochs or (
            epochs > 0 and epochs - 1 - self.best_epoch >= self._plan.patience
        )

    def _learn(
        self,
        loss: Callable[[int, int], Mapping[str, torch.Tensor]],
        epoch: int,
        number: int,
    ) -> None:
        plan = self._plan
        part = self.step / max(1, plan.epochs * plan.steps)
        groups = zip(self._optimizer.param_groups, plan.rates, plan.starts, strict=True)
        for group, rate, start in groups:
            group["lr"] = rate * rate_at(part) if part >= start else 0.0
        # Dropout and whatever else draws: the same numbers in the same step of every run.
        torch.manual_seed(plan.seed * 1_000_003 + self.step)
        self._net.train()
        half = self._device == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self._device, torch.bfloat16, enabled=half):
            terms = loss(epoch, number)
        total = sum(terms.values(), torch.zeros((), device=self._device))
        if not bool(torch.isfinite(total)):
            raise TrainingError(
                f"training: the loss is not a number in step {self.step}; set a lower rate"
            )
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        self._optimizer.step()
        self.step += 1
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(term.detach())

    def _end_epoch(self, figures: Figures, merit: Callable[[Figures], Sequence[float]]) -> None:
        losses = {f"loss {name}": total / self._plan.steps for name, total in self._sums.items()}
        self._sums = {}
        self.curves.append({**losses, **figures})
        if self.best_epoch < 0 or list(merit(figures)) > list(merit(self.best)):
            self.best_epoch = len(self.curves) - 1
            self._best = {k: v.detach().clone() for k, v in self._net.state_dict().items()}

    def _text(self) -> str:
        """Return the mean losses of the epoch under way, and the figures of the last one."""
        done = (self.step - 1) % self._plan.steps + 1
        parts = [f"{name} {total / done:.3f}" for name, total in self._sums.items()]
        latest = self.curves[-1] if self.curves else {}
        parts += [f"{k} {v:.3f}" for k, v in latest.items() if not k.startswith("loss ")]
        return ", ".join(parts)

    def _save(self) -> None:
        """Write the checkpoint beside the old one, and put it in its place."""
        arrays: dict[str, NDArray[Any]] = {}
        for kind, tensors in (("net", self._net.state_dict()), ("best", self._best)):
            for name, tensor in tensors.items():
                arrays[f"{kind}/{name}"] = tensor.detach().cpu().numpy()
        for number, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                arrays[f"moment/{number}/{name}"] = torch.as_tensor(value).cpu().numpy()
        about = {
            "key": self._plan.key,
            "step": self.step,
            "curves": self.curves,
            "sums": self._sums,
            "best_epoch": self.best_epoch,
        }
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        data = io.BytesIO()
        np.savez(data, **arrays)  # type: ignore[arg-type]
        part = self._path.with_suffix(".part")
        with open(part, "wb") as file:
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)

    def _load(self) -> None:
        """Continue from the checkpoint, if there is one of the same plan."""
        found = read_checkpoint(self._path, self._plan.key)
        if found is None:
            return
        about, arrays = found
        self.step, self.curves = about["step"], about["curves"]
        self._sums, self.best_epoch = about["sums"], about["best_epoch"]
        parts: dict[str, dict[str, torch.Tensor]] = {"net": {}, "best": {}, "moment": {}}
        for name, array in arrays.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = torch.from_numpy(array).to(self._device)
        self._net.load_state_dict(parts["net"])
        self._best = parts["best"]
        for number, parameter in enumerate(self._parameters):
            own = {
                name.partition("/")[2]: value
                for name, value in parts["moment"].items()
                if name.startswith(f"{number}/")
            }
            if own:
                own["step"] = own["step"].cpu()
                self._optimizer.state[parameter] = own


def read_checkpoint(path: Path, key: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Read a checkpoint; None: there is none of this key."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (about, arrays) if about["key"] == key else None


def rate_at(part: float) -> float:
    """Return the factor of the learning rate: a short rise, then half a cosine down to 0.

    Args:
        part: part of the steps that is over.
    """
    if part < WARM_UP:
        return 0.05 + 0.95 * part / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (part - WARM_UP) / (1 - WARM_UP)))
