"""The network of a method: the open blocks of the backbone and the head, and the whole of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.training.backbone import Backbone
from models.training.graph import IMAGES
from models.training.onnx_net import OnnxNet


class Learner(nn.Module):
    """The part that is trained: the open blocks of the backbone, and the head.

    Args:
        backbone: the backbone.
        cut: number of its blocks that stay as they are.
        maps: names of the tensors that the head takes.
        head: takes these tensors as its arguments.
    """

    def __init__(self, backbone: Backbone, cut: int, maps: Sequence[str], head: nn.Module) -> None:
        super().__init__()
        edge = backbone.blocks[cut - 1].tensor if cut else IMAGES
        below = {edge}
        if cut:
            below |= {name for node in backbone.piece([edge]).graph.node for name in node.output}
        above = [name for name in maps if name not in below]
        self.inputs = tuple(sorted({*([edge] if above else []), *(set(maps) & below)}))
        """Names of the frozen tensors that it takes."""
        self._order = [(above if name in above else self.inputs).index(name) for name in maps]
        self._from_open = [name in above for name in maps]
        self._edge = self.inputs.index(edge) if above else 0
        self.open = OnnxNet(backbone.model, [edge], above) if above else None
        self.head = head

    def forward(self, *frozen: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the head."""
        opened = [] if self.open is None else self.open(frozen[self._edge])
        maps = [
            (opened if is_open else frozen)[place]
            for place, is_open in zip(self._order, self._from_open, strict=True)
        ]
        found = self.head(*maps)
        return found if isinstance(found, tuple) else (found,)


class Whole(nn.Module):
    """The network from pixels to the outputs of the exported model."""

    def __init__(self, frozen: OnnxNet | None, learner: Learner, finish: nn.Module) -> None:
        super().__init__()
        self.frozen, self.learner, self.finish = frozen, learner, finish

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for images (N, H, W, 3) uint8 BGR."""
        colours = images.permute(0, 3, 1, 2).flip(1).float()
        maps = [colours] if self.frozen is None else self.frozen(colours)
        found = self.finish(*self.learner(*maps))
        return found if isinstance(found, tuple) else (found,)
