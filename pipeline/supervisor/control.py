"""Changes to a run while it continues: pause, resume, add and remove streams, reload settings."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from pipeline.config import NAME
from pipeline.errors import EyelineError
from pipeline.graph.build import add_stream
from pipeline.graph.diff import changed_stages, changed_streams, needs_new_run, with_offers_of
from pipeline.graph.graph import Graph, StreamSpec
from pipeline.memory.run_info import REPLIES_KEPT
from pipeline.stage_errors import error_line, place_of
from pipeline.supervisor import sd_notify
from pipeline.supervisor.processes import Child, Processes
from pipeline.supervisor.streams import RunningStream, RunningStreams

MAX_NAME = 64
"""Characters in the name of a stream that is added on request."""


class _Request(msgspec.Struct):
    """A request as a stage sends it."""

    do: Literal["pause", "resume", "remove", "add", "reload"]
    stream: str = ""
    settings: dict[str, Any] = {}


class Control:
    """Requests of stages, and reloads of the settings file."""

    def __init__(
        self,
        graph: Graph,
        streams: RunningStreams,
        processes: Processes,
        start: Callable[[Child], None],
        rebuild: Callable[[], Graph] | None,
    ) -> None:
        """Start without a change.

        Args:
            graph: graph of the run.
            streams: running streams.
            processes: processes of the workers.
            start: starts one more worker.
            rebuild: reads the settings again; None: they do not come from a file.
        """
        self.graph = graph
        """Graph of the run, with the settings in effect."""
        self.successor: Graph | None = None
        """Graph of the next run: settings that cannot take effect in this one."""
        self.can_reload = rebuild is not None
        self.reloads = 0
        self.reload_error = ""
        """Reason for which the latest settings were refused; empty if they were not."""
        self.replies: dict[str, str] = {}
        """Answers to the latest requests, by the names of these."""
        self._streams, self._processes = streams, processes
        self._start, self._rebuild = start, rebuild
        self._pending_streams: dict[str, StreamSpec] = {}
        """Streams by name that begin once the last frames of another of that name are through."""

    # --- the settings file ---

    def reload(self, *, ending: bool) -> str:
        """Read the settings again and apply the changes.

        Streams are added, removed or opened again, and stages with other settings are restarted;
        frames in flight wait meanwhile. Stages that were added, removed or moved need a new run:
        then `successor` is set, and the run must stop. Settings with a mistake change nothing.

        Args:
            ending: whether the run is ending.

        Returns:
            Why nothing was changed; "" otherwise.
        """
        if self._rebuild is None:
            return "this run was not started from a settings file that can be read again"
        if ending:
            return "the run is ending"
        sd_notify.reloading()
        try:
            fresh = self._rebuild()
        except Exception as error:  # a defect, in a stage for example, must not end the run
            is_ours = isinstance(error, EyelineError)
            self.reload_error = str(error) if is_ours else f"{place_of(error)}: {error_line(error)}"
            logging.error(
                "settings not reloaded, the old ones stay in effect: %s", self.reload_error
            )
            sd_notify.ready()
            return self.reload_error
        self.reload_error = ""
        self.reloads += 1
        if needs_new_run(self.graph, fresh):
            logging.info(
                "settings reloaded: graph changed; restarting the run, output files start over"
            )
            self.successor = fresh
            return ""
        changed = [*self._change_stages(fresh), *self._change_streams(fresh)]
        self.graph = replace(self.graph, config=fresh.config)
        logging.info("settings reloaded: %s", ", ".join(changed) or "nothing changed")
        sd_notify.ready()
        return ""

    def _change_stages(self, fresh: Graph) -> Iterator[str]:
        changed = set()
        for node, new in changed_stages(self.graph, fresh):
            # In place: workers that are started from now on find it so.
            node.settings, node.resources = new.settings, new.resources
            node.context = with_offers_of(node.context, new.context)
            changed.add(node)
            yield f"stage {node.name} changed"
        for child in self._processes.children.values():
            if changed.intersection(child.spec.nodes):
                self._processes.request_restart(child)

    def _change_streams(self, fresh: Graph) -> Iterator[str]:
        running = self._streams.by_name()
        self._pending_streams.clear()
        changes = changed_streams({n: stream.spec for n, stream in running.items()}, fresh.streams)
        for name in changes.other_slots:
            logging.warning("stream %s: new value of `slots` takes effect at the next start", name)
        for name in changes.removed:
            self._remove(running[name])
            yield f"stream {name} removed"
        for spec in changes.replaced:
            self._remove(running[spec.name])
            self._pending_streams[spec.name] = spec
            yield f"stream {spec.name} changed"
        draining = {stream.name for stream in self._streams}
        for spec in changes.added:
            if spec.name in draining:
                self._pending_streams[spec.name] = spec
                yield f"stream {spec.name} added"
                continue
            problem = self._add(spec)
            yield f"stream {spec.name} {'not added: ' + problem if problem else 'added'}"
        for spec in changes.changed:
            stream = running[spec.name]
            reopen = spec.capture != stream.spec.capture
            stream.spec = spec
            self._streams.publish(stream)
            if reopen:
                self._processes.request_restart(stream.child)
            yield f"stream {spec.name} changed"

    # --- streams ---

    def _add(self, spec: StreamSpec) -> str:
        """Begin one more stream; return "" or why not."""
        child = self._streams.add(spec)
        if isinstance(child, str):
            return child
        self._processes.children[child.spec.index] = child
        self._start(child)
        return ""

    def add_pending(self, *, ending: bool) -> None:
        """Begin the streams that waited for the end of another stream of the same name.

        Args:
            ending: whether the run is ending; then none begins.
        """
        if ending:
            self._pending_streams.clear()
        names = {stream.name for stream in self._streams} if self._pending_streams else set()
        for name in self._pending_streams.keys() - names:
            problem = self._add(self._pending_streams.pop(name))
            if problem:
                logging.error("stream %s: not added: %s", name, problem)

    def _remove(self, stream: RunningStream) -> None:
        """End a stream; its frames in flight drain."""
        stream.arena.remove()
        self._processes.abandon_if_opening(stream.child, stream.arena)

    # --- requests of stages ---

    def handle_request(self, name: str, body: str, *, ending: bool) -> None:
        """Do what a stage requests on behalf of a person, and keep the answer for it.

        Args:
            name: name of the request.
            body: the request as JSON.
            ending: whether the run is ending.
        """
        self.replies[name] = self._answer(body, ending)
        while len(self.replies) > REPLIES_KEPT:
            del self.replies[next(iter(self.replies))]

    def _answer(self, body: str, ending: bool) -> str:
        """Carry out a request; return "" or why not."""
        try:
            request = msgspec.json.decode(body, type=_Request)
        except msgspec.DecodeError as error:
            return f"not a request: {error}"
        if request.do == "reload":
            return self.reload(ending=ending)
        if ending:
            return "the run is ending"
        running = self._streams.by_name()
        if request.do == "add":
            return self._add_on_request(request, running)
        stream = running.get(request.stream)
        if stream is None:
            return f"no stream is named {request.stream!r}"
        if request.do == "remove":
            self._remove(stream)
        else:
            stream.arena.paused = request.do == "pause"
        return ""

    def _add_on_request(self, request: _Request, running: Mapping[str, RunningStream]) -> str:
        name = request.stream
        if not re.fullmatch(NAME.strip("^$"), name) or len(name) > MAX_NAME:
            return (
                "a name has letters, digits, - and _, begins with a letter, and is at most "
                f"{MAX_NAME} characters long"
            )
        if name in {stream.name for stream in self._streams}:
            still = "" if name in running else " until its last frames are through"
            return f"there is a stream named {name!r} already{still}"
        try:
            spec = add_stream(self.graph, -1, name, request.settings, name)
        except EyelineError as error:
            return str(error)
        except Exception as error:  # a defect must not end the run
            return f"{place_of(error)}: {error_line(error)}"
        return self._add(replace(spec, requested=True))
