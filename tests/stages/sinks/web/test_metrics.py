"""Metrics of a run: names, types, labels and help of all, and their values."""

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from stages.sinks.web.metrics import exposition
from tests.golden_files import check_golden
from tests.stages.sinks.web.test_web import StandIn


@pytest.mark.golden
def test_names_types_labels_and_help_of_metrics_are_the_golden_ones():
    text = exposition(StandIn(), viewers=3, accept="")[0].decode()
    found = []
    for family in parse(text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        header = f"{name} {family.type} {{{', '.join(sorted(labels))}}}"
        found.append(f"{header}\n    {family.documentation}\n")
    check_golden("metrics.txt", "".join(sorted(found)))
