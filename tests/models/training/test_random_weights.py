import numpy as np
import pytest

from models.training.architectures import ARCHITECTURES
from models.training.backbones import random
from tests.models.training.builders import backbone

torch = pytest.importorskip("torch")

from models.training.onnx_net import OnnxNet  # noqa: E402 - needs torch


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_random_features_neither_fade_nor_explode(architecture):
    own = random(backbone(architecture), seed=3)
    net = OnnxNet(own.model, ["images"], [block.tensor for block in own.levels.values()])
    draw = np.random.default_rng(0)
    pixels = draw.uniform(0, 255, (2, 3, 64, 64)).astype(np.float32).repeat(2, 2).repeat(2, 3)
    with torch.no_grad():
        spreads = [float(maps.std()) for maps in net(torch.from_numpy(pixels))]
    assert min(spreads) > 0.1
    assert max(spreads) < 3


def test_random_weights_follow_from_the_seed_alone():
    own = backbone()
    assert random(own, 1).sha256 == random(own, 1).sha256
    assert len({own.sha256, random(own, 1).sha256, random(own, 2).sha256}) == 3


def test_a_random_backbone_has_the_same_cuts_and_says_what_it_is():
    own = backbone()
    found = random(own, 7)
    assert found.blocks == own.blocks
    assert found.seen == "nothing"
    assert "seed 7" in found.origin
