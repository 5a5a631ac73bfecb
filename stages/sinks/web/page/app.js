"use strict";

// Messages of the server, the summary of the run, and its controls. The last of the scripts: the
// connection is opened when all are loaded.

const RELOAD_REFUSED = "The changed settings were refused";

let writes = false;
let adds = false;

function receive(message) {
  if (message.type === "hello") {
    writes = message.writes;
    adds = message.adds;
    histories = new Map(Object.entries(message.history));
    events = [];
    receiveEvents(message.events);
  } else if (message.type === "events") {
    receiveEvents(message.events);
  } else if (message.type === "status") {
    receiveStatus(message.status, message.samples);
  }
}

function receiveStatus(status, samples) {
  $("main").hidden = false;
  setText($("summary"), summaryOf(status, samples));
  $("actions").hidden = !writes;
  $("add-open").hidden = !adds;
  document.title = titleOf(status);

  const names = new Set(status.streams.map((stream) => stream.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.close();
      cards.delete(name);
      histories.delete(name);
    }
  }
  for (const stream of status.streams) {
    let card = cards.get(stream.name);
    if (!card) {
      card = new Card(stream.name);
      cards.set(stream.name, card);
      $("streams").append(card.root);
    }
    stream.since = stream.since_s;
    card.update(stream, samples[stream.name]);
  }
  $("streams").classList.toggle("one", cards.size === 1);
  $("streams").classList.toggle("many", cards.size > 4);
  $("no-streams").hidden = cards.size > 0;
  watch();
  updateStages(status);

  const footer = [`Eyeline ${status.version}`, `process ${status.pid}`];
  if (status.config) footer.push(status.config);
  if (status.reloads) footer.push(`settings reloaded ${number(status.reloads)}×`);
  const parts = footer.map((text) => make("span", "", text));
  if (!writes) parts.push(make("span", "", "To add, pause or remove streams here, set `token` of the web stage."));
  else if (!adds) parts.push(make("span", "", "To add streams here, list the allowed sources in `sources` of the web stage."));
  if (readsWithoutToken) {
    for (const [text, path] of [["Metrics", "metrics"], ["Status as JSON", "api/status"]]) {
      const link = make("a", "", text);
      link.href = path;
      parts.push(link);
    }
  }
  if ($("footer").textContent !== parts.map((part) => part.textContent).join("")) $("footer").replaceChildren(...parts);
  if (status.reload_error) notice(`${RELOAD_REFUSED}; the previous settings are in use: ${status.reload_error}`);
  else if ($("notice").textContent.startsWith(RELOAD_REFUSED)) notice("");
}

function summaryOf(status, samples) {
  const counts = {};
  for (const stream of status.streams) counts[stream.condition.state] = (counts[stream.condition.state] || 0) + 1;
  const waiting = status.streams.filter((stream) => stream.condition.state === "waiting").map((stream) => stream.name);
  const which = waiting.length && status.streams.length > 1 ? ` (${waiting.slice(0, 5).join(", ")}${waiting.length > 5 ? " …" : ""})` : "";
  const states = Object.keys(STATES).filter((state) => counts[state])
    .map((state) => `${counts[state]} ${state}${state === "waiting" ? which : ""}`);
  const fps = Object.values(samples).reduce((all, sample) => all + sample[1], 0);
  const phase = { running: "Running", draining: "Ending", closing: "Ending" }[status.phase];
  const parts = [`${phase} for ${duration(status.uptime_s)}`];
  if (states.length) parts.push(`${status.streams.length === 1 ? "1 stream" : `${status.streams.length} streams`}: ${states.join(", ")}`);
  parts.push(`${rate(fps)} frames per second`);
  return parts.join(" · ");
}

function titleOf(status) {
  const waiting = status.streams.filter((stream) => stream.condition.state === "waiting").length;
  return waiting ? `(${waiting} waiting) Eyeline` : "Eyeline";
}

// --- controls of the run ---

$("add-open").onclick = async () => {
  const error = $("add-dialog").querySelector(".error");
  setText(error, "");
  $("add-name").value = $("add-source").value = "";
  while (await show($("add-dialog"))) {
    const body = { name: $("add-name").value.trim(), source: $("add-source").value.trim() };
    const refused = await change("POST", "api/streams", body);
    if (!refused) return;
    setText(error, refused);
  }
};

$("reload").onclick = async () => {
  const refused = await change("POST", "api/reload");
  if (refused) flash(`Settings not reloaded: ${refused}`);
};

connect();
