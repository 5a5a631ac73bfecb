"use strict";

// The list of events: objects, streams and stages.

const MAX_EVENTS_SHOWN = 100; // of objects, and of streams and stages

let events = [];

function receiveEvents(more) {
  events.push(...more);
  // As many of each, so that frequent events of objects do not evict those of streams.
  const objects = events.filter((event) => event.label).slice(-MAX_EVENTS_SHOWN);
  const others = events.filter((event) => !event.label).slice(-MAX_EVENTS_SHOWN);
  events = [...objects, ...others].sort((one, other) => one.number - other.number);
  listEvents();
}

function listEvents() {
  const kind = $("events-kind").value;
  const chosen = events.filter((event) => kind === "all" || (kind === "objects") === Boolean(event.label));
  const lines = chosen.slice(-MAX_EVENTS_SHOWN).reverse().map(lineOf);
  $("events").replaceChildren(...(lines.length ? lines : [make("li", "none", "No events yet.")]));
}
$("events-kind").onchange = listEvents;

/** Return the classes that other models give an object, in words. */
function attributesOf(object) {
  return Object.values(object.attributes || {}).map((found) => found.label).join(", ");
}

function lineOf(event) {
  const time = make("time", "", new Date(event.at).toLocaleTimeString([], { hour12: false }));
  time.dateTime = event.at;
  time.title = new Date(event.at).toLocaleString();
  let { text } = event;
  if (event.label) {
    const which = event.id == null ? "" : ` ${event.id}`;
    const also = attributesOf(event);
    text = `${event.label}${which}${also && ` (${also})`} ${text}`;
    if (event.text.startsWith("appeared")) text += `, score ${(event.score || 0).toFixed(2)}`;
  }
  return make("li", "", time, make("span", "of", event.stream || "run"), make("span", event.urgent ? "urgent" : "", text));
}
