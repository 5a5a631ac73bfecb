"""A golden file holds an input of a model, and the outputs that it must give."""

import zipfile

import numpy as np
import pytest

from models import golden
from models.errors import CardError
from tests.models.builders import save


@pytest.fixture
def model(tmp_path):
    """Write a model with two outputs; they do not depend on the input."""
    outputs = {"a": np.float32([[1, 2, 400]]), "b": np.float32([[[0.5], [0.25]]])}
    return save(tmp_path / "m.onnx", [1, 3, 8, 8], outputs)


@pytest.fixture
def written(model, tmp_path):
    path = tmp_path / "m.golden.npz"
    golden.write(path, model.read_bytes(), {"images": np.zeros((1, 3, 8, 8), np.float32)})
    return path


def arrays_of(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_a_model_gives_the_outputs_that_were_written(model, written):
    assert set(arrays_of(written)) == {"images", "output0", "output1"}
    assert golden.compare(written, model) == 0


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("output0", lambda a: a + 0.2, 0.2 / 400.2),
        ("output1", lambda a: a + 0.2, 0.2),
        ("output1", lambda a: a[:, :1], np.inf),
        ("output1", lambda a: a * np.nan, np.inf),
        ("output1", lambda a: a > 0.3, 0.5),
        ("output1", lambda a: a.astype(str), np.inf),
    ],
)
def test_the_largest_difference_of_all_outputs_counts(name, change, expected, model, written):
    arrays = arrays_of(written)
    arrays[name] = change(arrays[name])
    np.savez(written, **arrays)
    assert golden.compare(written, model) == pytest.approx(expected, rel=1e-4)


def cut_short(path, model):
    path.write_bytes(path.read_bytes()[:200])


def no_archive(path, model):
    path.write_text("hello")


def objects(path, model):
    np.savez(path, images=np.zeros(3), output0=np.array([{}], object))


def no_array(path, model):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images.npy", b"hello")


def huge(path, model):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", bytes(golden.MAX_BYTES + 1))


def no_outputs(path, model):
    np.savez(path, images=np.zeros((1, 3, 8, 8), np.float32))


def one_output(path, model):
    arrays = arrays_of(path)
    del arrays["output1"]
    np.savez(path, **arrays)


def other_input(path, model):
    np.savez(path, **{**arrays_of(path), "images": np.zeros((1, 3, 9, 9), np.float32)})


def other_name(path, model):
    arrays = arrays_of(path)
    np.savez(path, **{**arrays, "pictures": arrays.pop("images")})


def missing(path, model):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut_short, "holds no arrays"),
        (no_archive, "holds no arrays"),
        (objects, "holds no arrays"),
        (no_array, "holds no arrays"),
        (huge, "holds no arrays"),
        (no_outputs, "no output0 (found images)"),
        (one_output, "of another model (found 1 outputs, the model has 2)"),
        (other_input, "cannot take the golden input"),
        (other_name, "cannot take the golden input"),
        (missing, "cannot be read: No such file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_golden_file_that_does_not_fit_is_refused_in_a_line(damage, expected, model, written):
    damage(written, model)
    with pytest.raises(CardError) as error:
        golden.compare(written, model)
    assert str(error.value).startswith(f"{written}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_difference_is_a_plain_number_also_of_large_outputs():
    expected = np.array([4.0, 1.0], np.float32)
    found = np.array([4.0, 3.0], np.float32)
    assert golden.difference(expected, found) == 0.5
    assert type(golden.difference(expected, found)) is float
