"""Random layouts decode as an independent decoder in plain Python does."""

from hypothesis import HealthCheck, given, settings

from tests.models.families import layouts
from tests.models.families import reference as ref
from tests.models.families.model_file import assert_same, contract_of, decode, quiet_score

slow = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def check(folder, example):
    contract = contract_of(
        folder,
        "generic",
        example.size,
        example.outputs,
        images=example.images,
        nhwc=example.nhwc,
        card=example.card,
    )
    assert list(contract.layout.outputs) == list(example.layout["outputs"])
    for i, every in enumerate(example.expected):
        score = quiet_score(every)
        expected = ref.finish(every, score, *example.size)
        found = decode(contract, example.outputs, score, i, example.images)
        assert_same(found, expected, max(example.size))


@slow
@given(layouts.rows_of_boxes())
def test_rows_of_any_order_of_columns_decode_as_the_reference(tmp_path, example):
    check(tmp_path, example)


@slow
@given(layouts.grids())
def test_grids_of_any_order_of_axes_decode_as_the_reference(tmp_path, example):
    check(tmp_path, example)


@slow
@given(layouts.priors())
def test_offsets_to_priors_of_any_kind_decode_as_the_reference(tmp_path, example):
    check(tmp_path, example)
