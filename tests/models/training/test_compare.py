"""The comparison trains a method from several starts, and repeats nothing that is finished."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from models.datasets.base import LabelledImage, TrueObject
from models.errors import TrainingError
from models.training import backbones, compare, method
from models.training.method import Job, Method
from models.training.record import Trial
from pipeline.commands import train_run
from pipeline.commands.train_compare import compare_starts, table
from tests.models.training.test_report import record_of


class Settings(method.Settings, frozen=True, kw_only=True):
    rate: float = 0.5


class Counts(Method):
    """Learns the number of its images; its figures name the backbone."""

    Settings = Settings
    fitted = []

    def estimate_s(self):
        return 1.0

    def fit(self):
        self.fitted.append((self.job.backbone.name, len(self.job.train), self.settings.rate))

    def predict(self, images):
        return [len(self.job.train)] * len(images)

    def measure(self, images, results):
        return {"images": float(results[0]), "own": float(self.job.backbone.name == "b")}


class Scratch(Counts):
    @classmethod
    def from_scratch(cls, settings):
        return Settings(layers=0, rate=1.0)


def image(number, *classes):
    return LabelledImage(Path(f"{number}.png"), f"{number}.png", (8, 8), (), classes)


@pytest.fixture
def job(tmp_path, monkeypatch):
    Counts.fitted.clear()
    names = {"b": "nothing"}
    monkeypatch.setattr(
        backbones,
        "random",
        lambda b, seed: SimpleNamespace(name=f"{b.name}-random", sha256="1", seen=names[b.name]),
    )
    return Job(
        backbone=SimpleNamespace(name="b", sha256="0", seen="COCO"),
        labels=("a", "b"),
        train=[image(n, n % 2) for n in range(20)],
        val=[image(30, 0)],
        settings=Settings(),
        seed=0,
        folder=tmp_path,
        cache=tmp_path / "cache",
    )


def compared(cls, job):
    record, saved = record_of(), []
    prepared = SimpleNamespace(val=job.val, test=job.val)
    compare_starts(cls, job, prepared, record, True, lambda: saved.append(len(record.comparison)))
    return record, saved


def test_transfer_and_random_weights_are_trained_with_three_parts(job, capsys):
    record, saved = compared(Counts, job)
    assert Counts.fitted == [
        ("b", 2, 0.5), ("b", 6, 0.5),
        ("b-random", 2, 0.5), ("b-random", 6, 0.5), ("b-random", 20, 0.5),
    ]  # fmt: skip
    assert saved == [2, 3, 4, 5, 6]
    assert [(t.start, t.images) for t in record.comparison][:3] == [
        ("b, has seen COCO", 2), ("b, has seen COCO", 6), ("b, has seen COCO", 20),
    ]  # fmt: skip
    assert record.comparison[2].test == record.test
    assert capsys.readouterr().out.splitlines() == table(record.comparison)


def test_a_method_that_can_learns_all_layers_too(job):
    record, _ = compared(Scratch, job)
    assert Counts.fitted[-3:] == [("b-random", n, 1.0) for n in (2, 6, 20)]
    assert {t.start for t in record.comparison} == {
        "b, has seen COCO", "random, the same layers learn", "random, all layers learn",
    }  # fmt: skip


def test_finished_trainings_are_not_repeated(job):
    first, _ = compared(Counts, job)
    (job.folder / "compare" / "random-30" / "trial.json").write_text('{"key": "cut')
    Counts.fitted.clear()
    second, _ = compared(Counts, job)
    assert Counts.fitted == [("b-random", 6, 0.5)]
    assert [t.test for t in second.comparison] == [t.test for t in first.comparison]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"settings": Settings(rate=0.1)}, {"labels": ("a", "c")}]
)
def test_results_of_other_jobs_are_not_taken(change, job):
    compared(Counts, job)
    Counts.fitted.clear()
    compared(Counts, job._replace(**change))
    assert len(Counts.fitted) == 5


def test_parts_lie_in_each_other_and_have_each_class():
    images = [image(n, 0) for n in range(50)] + [image(50 + n, 1) for n in range(3)]
    small, large = (compare.part_of(images, part, 0) for part in (0.1, 0.3))
    assert [sum(i.classes == (c,) for i in small) for c in (0, 1)] == [5, 1]
    assert [sum(i.classes == (c,) for i in large) for c in (0, 1)] == [15, 1]
    assert {i.name for i in small} < {i.name for i in large}
    assert compare.part_of(images, 1.0, 0) == images
    assert compare.part_of(images, 0.3, 1) != large


def test_an_image_counts_for_the_rarest_of_its_classes():
    def boxes(number, *classes):
        objects = tuple(TrueObject(c, (0.0, 0.0, 4.0, 4.0)) for c in classes)
        return LabelledImage(Path("a"), str(number), (8, 8), objects)

    images = [boxes(n, 0) for n in range(9)] + [boxes(9, 0, 1), boxes(10)]
    names = {i.name for i in compare.part_of(images, 0.1, 0)}
    assert {"9", "10"} < names
    assert len(names) == 3


def test_the_table_has_a_line_for_each_training():
    trials = [
        Trial(start=s, part=p, images=9, validation={}, test=t, train_s=70, cpu_s=1)
        for s, p, t in (("b", 1.0, {"AP": 0.5}), ("random", 0.1, {}))
    ]
    assert table(trials) == [
        "start     images     AP        time",
        "b       9 (100%)  0.500  1 min 10 s",
        "random   9 (10%)    nan  1 min 10 s",
    ]


def test_a_comparison_is_added_to_the_same_training_alone(tmp_path):
    record = record_of(train_s=70.0)
    assert train_run._finished_before(tmp_path, "m", record) is None
    (tmp_path / "m.yaml").write_text("")  # of a run that was killed before its record
    assert train_run._finished_before(tmp_path, "m", record) is None
    (tmp_path / train_run.RECORD).write_text("{")
    with pytest.raises(TrainingError, match="a finished model is there"):
        train_run._finished_before(tmp_path, "m", record)
    train_run.write_record(tmp_path / train_run.RECORD, record)
    found = train_run._finished_before(tmp_path, "m", record_of(command="other", notes=[]))
    assert found.train_s == 70
    for change in ({"seed": 1}, {"method": "finetune"}, {"settings": {"size": 32}}):
        with pytest.raises(TrainingError, match="a finished model is there"):
            train_run._finished_before(tmp_path, "m", record_of(**change))
