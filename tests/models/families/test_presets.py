"""Every preset decodes random raw outputs as an independent decoder in plain Python does."""

import zlib

import numpy as np
import pytest

from models.families.presets import presets
from models.feed import feed
from models.runtime import Runtime
from tests.models.families import reference as ref
from tests.models.families.cases import CASES, GRIDS, MAPS, ONE_IMAGE
from tests.models.families.detail_cases import DETAILED, WHOLE
from tests.models.families.model_file import assert_same, contract_of, decode, quiet_score
from tests.models.families.setups import Setup

VARIANTS = {
    "plain": Setup(),
    "float16": Setup(dtype="float16"),
    "one class": Setup(classes=1),
    "four classes": Setup(classes=4),
    "batch of 3": Setup(images=3),
    "channels last": Setup(nhwc=True),
    "grid rounds up": Setup(size=(100, 75), rounding="ceil"),
    "grid rounds down": Setup(size=(100, 75)),
    "high": Setup(size=(64, 128)),
}
CHOSEN = [
    (preset, variant)
    for preset in CASES
    for variant, setup in VARIANTS.items()
    if not (setup.images > 1 and preset in ONE_IMAGE)
    and not (setup.nhwc and preset not in MAPS)
    and not ("grid" in variant and preset not in GRIDS)
]
TRANSFORM = (0.5, 0.25, 3.0, 5.0)


def made(preset, variant):
    setup = VARIANTS[variant]
    rng = np.random.default_rng(zlib.crc32(f"{preset} {variant}".encode()))
    return setup, CASES[preset](rng, setup)


def loaded(tmp_path, preset, setup, case, **more):
    return contract_of(
        tmp_path,
        preset,
        setup.size,
        case.outputs,
        images=setup.images,
        nhwc=setup.nhwc,
        card=case.card,
        more_inputs=case.more_inputs,
        **more,
    )


@pytest.mark.parametrize(("preset", "variant"), CHOSEN)
def test_a_preset_decodes_as_its_reference(tmp_path, preset, variant):
    setup, case = made(preset, variant)
    contract = loaded(tmp_path, preset, setup, case)
    if any("scores" in columns for columns in contract.layout.outputs.values()):
        assert contract.classes == setup.classes
    image = (setup.size[0] * 2, setup.size[1] * 4)
    for i, every in enumerate(case.expected):
        score = quiet_score(every)
        expected = ref.finish(every, score, *image, TRANSFORM)
        assert 0 < len(expected) < max(2, len(every))
        found = decode(
            contract, case.outputs, score, i, setup.images, image=image, transform=TRANSFORM
        )
        assert_same(found, expected, max(image))


def test_every_preset_has_a_reference():
    assert {*CASES, *DETAILED, *WHOLE} == presets().keys()


@pytest.mark.parametrize("preset", ["yolov8", "tensorrt_nms", "mmdeploy", "detr"])
@pytest.mark.parametrize("variant", ["float16", "batch of 3"])
def test_the_outputs_of_a_run_decode_as_those_of_the_file(tmp_path, preset, variant):
    setup, case = made(preset, variant)
    contract = loaded(tmp_path, preset, setup, case)
    images = np.zeros((setup.images, *contract.input.shape[1:]), contract.input.dtype)
    raw = Runtime(contract, "cpu").run(feed(contract, images))
    outputs = {tensor.name: value for tensor, value in zip(contract.outputs, raw, strict=True)}
    for i in range(setup.images):
        found = decode(contract, outputs, 0.1, i, setup.images)
        expected = ref.finish(case.expected[i], 0.1, *setup.size)
        assert_same(found, expected, max(setup.size))


@pytest.mark.parametrize("preset", [name for name in CASES if len(presets()[name].outputs) > 1])
def test_the_order_of_the_outputs_in_the_file_has_no_effect(tmp_path, preset):
    setup, case = made(preset, "plain")
    expected = decode(loaded(tmp_path, preset, setup, case), case.outputs, 0.2)
    turned = case._replace(outputs=dict(reversed(case.outputs.items())))
    found = decode(loaded(tmp_path, preset, setup, turned), case.outputs, 0.2)
    for some, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(some, other)
