"""Networks of which only the weights are stored: their graphs, built from the shapes of those.

MobileNetV2 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018) and
EfficientNet-Lite0 (Tan and Le, "EfficientNet", 2019, without squeeze and swish). Tensors are
recognised by their order and shapes; the names of layers differ between projects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.training import graph
from models.training.graph import IMAGES

if TYPE_CHECKING:
    import onnx

Weights = Mapping[str, NDArray[Any]]

NORMALISED = "images/normalised"
"""Name of the tensor behind the normalisation."""


class Normalisation(NamedTuple):
    """The arithmetic on pictures before the first layer: (pixel * scale - mean) / std, R, G, B."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 1 / 255
    """1 / 255 for a mean and std of pixels from 0 to 1."""


IMAGENET = Normalisation()
"""The usual one of networks that PyTorch's projects trained on ImageNet."""
LITE = Normalisation((127.0,) * 3, (128.0,) * 3, 1.0)
"""The one of EfficientNet-Lite."""


class Stage(NamedTuple):
    """A run of inverted residual blocks; the first one has the stride."""

    expansion: int
    blocks: int
    stride: int
    kernel: int


class Architecture(NamedTuple):
    """A network of inverted residual blocks."""

    name: str
    stages: tuple[Stage, ...]
    same: bool
    """Whether padding is TensorFlow's SAME: for stride 2, one pixel less at the left and top."""
    normalisation: Normalisation
    epsilon: float
    """Added to the variance in batch normalisation."""


MOBILENET_V2 = Architecture(
    "mobilenetv2",
    (
        Stage(1, 1, 1, 3),
        Stage(6, 2, 2, 3),
        Stage(6, 3, 2, 3),
        Stage(6, 4, 2, 3),
        Stage(6, 3, 1, 3),
        Stage(6, 3, 2, 3),
        Stage(6, 1, 1, 3),
    ),
    same=False,
    normalisation=IMAGENET,
    epsilon=1e-5,
)
EFFICIENTNET_LITE0 = Architecture(
    "efficientnet_lite0",
    (
        Stage(1, 1, 1, 3),
        Stage(6, 2, 2, 3),
        Stage(6, 2, 2, 5),
        Stage(6, 3, 2, 3),
        Stage(6, 3, 1, 5),
        Stage(6, 4, 2, 5),
        Stage(6, 1, 1, 3),
    ),
    same=True,
    normalisation=LITE,
    epsilon=1e-3,
)
ARCHITECTURES = (MOBILENET_V2, EFFICIENTNET_LITE0)
"""Those that are recognised by their weights."""


_VECTORS = ("weight", "bias", "running_mean", "running_var")
"""Names of the vectors of a batch normalisation in PyTorch; their order differs between formats."""


class Layer(NamedTuple):
    """A convolution with its batch normalisation, as stored."""

    kernel: NDArray[Any]
    """(out, in / groups, k, k)"""
    scale: NDArray[Any]
    shift: NDArray[Any]
    mean: NDArray[Any]
    variance: NDArray[Any]


class MismatchError(ValueError):
    """Weights are those of another network; the text says where."""


def recognise(weights: Weights) -> Architecture | None:
    """Return the architecture that weights belong to; None: none that is known."""
    for architecture in ARCHITECTURES:
        try:
            build(architecture, weights)
        except MismatchError:
            continue
        return architecture
    return None


def build(
    architecture: Architecture, weights: Weights, normalisation: Normalisation | None = None
) -> onnx.ModelProto:
    """Return the graph of a network up to its last map.

    Args:
        architecture: one of the `ARCHITECTURES`.
        weights: its state dict; a classifier behind the last map is ignored.
        normalisation: how pictures are normalised; None: as usual for the architecture.

    Raises:
        MismatchError: the weights do not have the shapes of this architecture.
    """
    writer = Writer()
    layers = layers_of(weights)
    shape = architecture.same, architecture.epsilon
    x = writer.normalise(normalisation or architecture.normalisation)
    kernel = _next(layers, (None, 3, 3, 3))
    channels = len(kernel.kernel)
    x = writer.layer("stem", x, kernel, 2, *shape, active=True)
    number = 0
    for stage in architecture.stages:
        for index in range(stage.blocks):
            number += 1
            name, entry = f"block{number}", x
            stride = stage.stride if index == 0 else 1
            wide = channels * stage.expansion
            if stage.expansion > 1:
                layer = _next(layers, (wide, channels, 1, 1))
                x = writer.layer(f"{name}/expand", x, layer, 1, *shape, active=True)
            layer = _next(layers, (wide, 1, stage.kernel, stage.kernel))
            x = writer.layer(f"{name}/depthwise", x, layer, stride, *shape, active=True)
            layer = _next(layers, (None, wide, 1, 1))
            x = writer.layer(f"{name}/project", x, layer, 1, *shape, active=False)
            if stride == 1 and len(layer.kernel) == channels:
                x = writer.node("Add", [x, entry], f"{name}/add")
            channels = len(layer.kernel)
    layer = _next(layers, (None, channels, 1, 1))
    x = writer.layer("head", x, layer, 1, *shape, active=True)
    if next(layers, None) is not None:
        raise MismatchError("more convolutions than the architecture has")
    return graph.make_model(writer.nodes, writer.weights, [x])


def layers_of(weights: Weights) -> Iterator[Layer]:
    """Yield each kernel of four dimensions with the four vectors that follow it.

    Raises:
        MismatchError: a kernel is not followed by the vectors of a batch normalisation.
    """
    tensors = [(name, value) for name, value in weights.items() if value.ndim]  # without counts
    for at, (_, kernel) in enumerate(tensors):
        if kernel.ndim != 4:
            continue
        vectors = {name.rpartition(".")[2]: value for name, value in tensors[at + 1 : at + 5]}
        if [vector.shape for vector in vectors.values()] != [(len(kernel),)] * 4:
            raise MismatchError("a convolution without batch normalisation")
        if vectors.keys() != set(_VECTORS):
            raise MismatchError(f"vectors that are called {', '.join(vectors)}")
        yield Layer(kernel, *(vectors[name] for name in _VECTORS))


def _next(layers: Iterator[Layer], shape: Sequence[int | None]) -> Layer:
    """Return the next layer, whose kernel must have this shape; None: any number."""
    layer = next(layers, None)
    if layer is None:
        raise MismatchError("fewer convolutions than the architecture has")
    for found, expected in zip(layer.kernel.shape, shape, strict=True):
        if expected not in (None, found):
            raise MismatchError(f"a kernel {layer.kernel.shape}, not {tuple(shape)}")
    return layer


class Writer:
    """Writes the nodes and weights of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, name: str, value: Any) -> str:
        """Add a float32 constant and return its name."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(value, np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node that has the name of its one output, and return that name."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def normalise(self, by: Normalisation) -> str:
        """Add the normalisation of pictures of 0 to 255, and return the name of the result."""
        mean = np.array(by.mean).reshape(1, 3, 1, 1) / by.scale
        std = np.array(by.std).reshape(1, 3, 1, 1) / by.scale
        x = self.node("Sub", [IMAGES, self.const("images/mean", mean)], "images/centred")
        return self.node("Div", [x, self.const("images/std", std)], NORMALISED)

    def layer(
        self,
        name: str,
        source: str,
        layer: Layer,
        stride: int,
        same: bool,
        epsilon: float,
        active: bool,
    ) -> str:
        """Add convolution, batch normalisation and, where `active`, ReLU6."""
        kernel = layer.kernel.shape[-1]
        around = kernel - stride if same and stride > 1 else 2 * (kernel // 2)
        before = around // 2
        x = self.node(
            "Conv",
            [source, self.const(f"{name}/weights", layer.kernel)],
            f"{name}/conv",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, around - before, around - before],
            group=len(layer.kernel) if layer.kernel.shape[1] == 1 else 1,
        )
        vectors = zip(("scale", "shift", "mean", "variance"), layer[1:], strict=True)
        constants = [self.const(f"{name}/{part}", value) for part, value in vectors]
        x = self.node("BatchNormalization", [x, *constants], f"{name}/norm", epsilon=epsilon)
        if not active:
            return x
        limits = [self.const(f"{name}/low", 0), self.const(f"{name}/high", 6)]
        return self.node("Clip", [x, *limits], f"{name}/out")
