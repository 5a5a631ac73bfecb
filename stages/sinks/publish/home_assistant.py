"""Home Assistant discovery: each stream is a device with two entities per label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.status import VERSION
from stages.sinks.publish.topics import OFF, ON, Topics, slug


def entity_configs(
    discovery: str, topics: Topics, stream: str, label: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield topic and content of the two entities of a label.

    Args:
        discovery: topic under which Home Assistant looks for devices.
        topics: topics of the sink.
        stream: name of the stream.
        label: that of the objects.
    """
    device = f"{slug(topics.prefix)}_{stream}"
    unique = f"{device}_{slug(label)}"
    title = label[:1].upper() + label[1:]
    common = {
        "availability": [
            {"topic": topics.of("availability")},
            {"topic": topics.of(stream, "availability")},
        ],
        "availability_mode": "all",
        "device": {
            "identifiers": [device],
            "name": stream,
            "manufacturer": "Eyeline",
            "model": "Video stream",
            "sw_version": VERSION,
        },
        "origin": {"name": "Eyeline", "sw_version": VERSION},
    }
    yield (
        f"{discovery}/binary_sensor/{unique}_present/config",
        {
            "name": title,
            "unique_id": f"{unique}_present",
            "state_topic": topics.of(stream, slug(label), "present"),
            "payload_on": ON,
            "payload_off": OFF,
            "device_class": "occupancy",
            **common,
        },
    )
    yield (
        f"{discovery}/sensor/{unique}_count/config",
        {
            "name": f"{title} count",
            "unique_id": f"{unique}_count",
            "state_topic": topics.of(stream, slug(label), "count"),
            "state_class": "measurement",
            "icon": "mdi:counter",
            **common,
        },
    )
