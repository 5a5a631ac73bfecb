"""Files, ports and folders of a graph: conflicts are refused before a process starts.

Stages declare their `Resources`; names of files per stream and of parts are worked out here alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.errors import GraphError
from pipeline.graph.graph import ExternalFiles, Graph, Node, StreamSpec
from pipeline.stage import Listen, Output

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Address for all interfaces -> the one at which this machine reaches it."""

Owners = dict[object, str]
"""Identity of a file or folder -> its user, in words."""


def stream_path(path: Path, stream: str, streams: Collection[str]) -> Path:
    """Return the file of one stream.

    `{stream}` in the path stands for the stream's name. Where it is missing, the name is added,
    out.txt becomes out-yard.txt, unless the stream is the only one.

    Args:
        path: as in the settings.
        stream: name of the stream.
        streams: names of the streams at the start of the run.
    """
    if "{stream}" in str(path):
        return Path(str(path).replace("{stream}", stream))
    if set(streams) != {stream} and path.name:
        return path.with_name(f"{path.stem}-{stream}{path.suffix}")
    return path


def part_path(path: Path, part: int) -> Path:
    """Return the file of a part: out.mp4, out.part2.mp4, out.part3.mp4 and so on."""
    return path if part == 1 else path.with_name(f"{path.stem}.part{part}{path.suffix}")


def check(
    nodes: Sequence[Node],
    streams: Sequence[StreamSpec],
    names: Sequence[str],
    external: ExternalFiles,
    where: str,
) -> None:
    """Refuse two users of one file, folder or port where only one can be.

    Args:
        nodes: all stages, the source first.
        streams: those whose sources count.
        names: names of all streams.
        external: files that are read and written beside the graph.
        where: start of a message about a stage.

    Raises:
        GraphError: the message names both users.
    """
    sinks = nodes[1:]
    _check_ports(sinks, where)
    read = _read_files(nodes, streams, external)
    _check_locks(nodes, streams, names, read, where)
    written: Owners = {}
    for node in sinks:
        files = {
            file: output
            for output in node.resources.writes
            for file in _files(output, names)
            if not _may_be_shared(file)
        }
        for file, output in files.items():
            for owners in (written, read):
                _claim(file, output, owners, f"{where}: stages.{node.name}:")
        written |= {file_id(file): f"written by stage {node.name}" for file in files}
    for option, path in external.writes.items():
        if not _may_be_shared(path):
            _claim(path, Output(path), read | written, f"{option}")
            written[file_id(path)] = f"written by {option}"


def left_by(graph: Graph, streams: Sequence[str]) -> Iterator[list[Path]]:
    """Return what each output of a run that has ended left behind, where anything is there.

    Args:
        graph: that of the run.
        streams: names of all streams of the run.
    """
    for node in graph.nodes[1:]:
        for output in node.resources.writes:
            found = [
                part
                for file in _files(output, streams, node.context.streams)
                for part in _parts(file, output)
                if part.is_file() or _has_content(part)
            ]
            if found:
                yield found


def listeners(graph: Graph, purpose: str) -> Iterator[Listen]:
    """Return the addresses on which a graph listens for a purpose."""
    for node in graph.nodes[1:]:
        for listen in node.resources.listens:
            if listen.purpose == purpose:
                yield listen


def file_id(path: str | Path) -> object:
    """Return the same for two names of one file, whether it exists already or not."""
    real = os.path.realpath(path)
    for name in (path, real):  # `new/../photos` is found only once `new` has been made
        try:
            found = os.stat(name)
        except (OSError, ValueError):
            continue
        return found.st_dev, found.st_ino
    return real


def _files(
    output: Output, names: Sequence[str], at_start: Collection[str] | None = None
) -> list[Path]:
    """Return the paths an output may have: the one in the settings, and those of the streams."""
    if not output.per_stream and "{stream}" not in str(output.path):
        return [output.path]
    files = [stream_path(output.path, name, at_start or names) for name in names]
    return list(dict.fromkeys([output.path, *files] if at_start is None else files))


def _parts(file: Path, output: Output) -> Iterator[Path]:
    """Return an output and the parts in which it continued."""
    yield file
    if not output.parts or not file.is_file():
        return
    number, modified_ns = 2, file.stat().st_mtime_ns
    # A part that is older than the one before it is of an earlier run.
    while (part := part_path(file, number)).is_file() and part.stat().st_mtime_ns >= modified_ns:
        yield part
        number, modified_ns = number + 1, part.stat().st_mtime_ns


def _read_files(
    nodes: Sequence[Node], streams: Sequence[StreamSpec], external: ExternalFiles
) -> Owners:
    read: Owners = {file_id(file): what for what, file in external.reads.items()}
    for node in nodes[1:]:
        for file in node.resources.reads:
            read[file_id(file)] = f"read by stage {node.name}"
    for stream in streams:
        for file in stream.resources.reads:
            read[file_id(file)] = f"the file of stream {stream.name}"
    return read


def _claim(file: Path, output: Output, owners: Mapping[object, str], at: str) -> None:
    whole = re.sub(r"\.part\d+$", "", file.stem) if output.parts else file.stem
    for name in dict.fromkeys((file, file.with_name(whole + file.suffix) if file.name else file)):
        owner = owners.get(file_id(name))
        if owner is not None:
            raise GraphError(f"{at} {file} is {owner}; choose another file")


def _may_be_shared(path: str | Path) -> bool:
    """Return whether the path is no file, such as /dev/null; `_check_locks` looks at folders."""
    return os.path.exists(path) and not os.path.isfile(path)


def _has_content(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.R_OK) and any(path.iterdir())


def _check_locks(
    nodes: Sequence[Node],
    streams: Sequence[StreamSpec],
    names: Sequence[str],
    read: Owners,
    where: str,
) -> None:
    """Refuse two users of a folder or spool, and one that fills the folder of a source's files."""
    locked: Owners = {}
    of_sources: Owners = dict(read)
    for stream in streams:
        files = stream.resources.reads
        targets = {file.resolve().parent for file in files if file.is_symlink()}
        for folder in {file.parent for file in files} | targets:
            of_sources[file_id(folder)] = f"the folder of stream {stream.name}"
    for node in nodes[1:]:
        at = f"{where}: stages.{node.name}:"
        own = set()
        for path in node.resources.locks:
            filled = _filled(path, names)
            for folder in filled:
                if file_id(folder) in of_sources:
                    owner = of_sources[file_id(folder)]
                    raise GraphError(f"{at} {folder} is {owner}; choose another folder")
            for folder in {path, *filled}:
                if file_id(folder) in locked:
                    raise GraphError(
                        f"{at} {folder} is used by stage {locked[file_id(folder)]}; choose another "
                        "path"
                    )
                own.add(file_id(folder))
        locked |= dict.fromkeys(own, node.name)


def _filled(path: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders that a stage fills: one for each stream where there are several."""
    if "{stream}" in str(path):
        return [Path(str(path).replace("{stream}", name)) for name in names]
    return [path] if len(names) < 2 else [path / name for name in names]


def _check_ports(nodes: Sequence[Node], where: str) -> None:
    taken: list[tuple[Listen, str]] = []
    for node in nodes:
        for listen in node.resources.listens:
            for other, owner in taken:
                if listen.port and listen.port == other.port and _overlap(listen.host, other.host):
                    raise GraphError(
                        f"{where}: stages.{node.name}: port {listen.port} of {listen.host} is used "
                        f"by stage {owner}; choose another port"
                    )
            taken.append((listen, node.name))


def _overlap(one: str, other: str) -> bool:
    """Return whether two listeners on one port of these addresses conflict."""
    every = {"", "*", "0.0.0.0", "::"}
    names = {"localhost": "127.0.0.1"}
    return one in every or other in every or names.get(one, one) == names.get(other, other)
