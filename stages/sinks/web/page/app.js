"use strict";

// Everything comes over one WebSocket: the status each second, events as they happen, and the
// pictures of the streams that are on the screen. The next picture of a stream is sent when the
// last one has been shown, so a slow viewer gets fewer and never old ones.

const LOST_MS = 10000; // without a word from the server
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const EVENTS_SHOWN = 100;
const SAMPLES = 150; // points across a curve
const STEP_MS = 2000; // between two of them
const GAP_MS = 15000; // without a sample: the curve is broken
const RATE_STATUSES = 6; // over which the rate of a stage is taken
const STATES = {
  live: "● Live", waiting: "◌ Waiting", paused: "❚❚ Paused", ended: "■ Ended", opening: "… Opening",
};
const WIDE_PX = 720;

const $ = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat();
const number = (value) => whole.format(value);
const rate = (value) => value.toFixed(value < 9.95 ? 1 : 0);
const ms = (value) => (value == null ? "–" : value < 9.95 ? value.toFixed(1) : number(Math.round(value)));

/** An element; text and children never pass through HTML, so no name can become markup. */
function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const sumOf = (counts) => Object.values(counts).reduce((all, n) => all + n, 0);

// --- the token ---

const token = {
  get: () => sessionStorage.getItem("eyeline-token") || "",
  set: (value) => sessionStorage.setItem("eyeline-token", value),
  forget: () => sessionStorage.removeItem("eyeline-token"),
};

/** Show a dialog; resolves when it is sent (true) or left (false). */
function show(dialog, prepare = () => {}) {
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    const end = (sent) => {
      form.onsubmit = dialog.onclose = null;
      if (dialog.open) dialog.close();
      resolve(sent);
    };
    prepare();
    form.onsubmit = (event) => { event.preventDefault(); end(true); };
    dialog.querySelector("[value=cancel]").onclick = () => end(false);
    dialog.onclose = () => end(false);
    dialog.showModal();
  });
}

async function askToken(why) {
  setText($("token-why"), why);
  $("token").value = "";
  if (!(await show($("token-dialog")))) return false;
  token.set($("token").value.trim());
  return true;
}

function withToken(headers = {}) {
  return token.get() ? { ...headers, Authorization: `Bearer ${token.get()}` } : headers;
}

/** Ask Eyeline to change something; "" when it has, else why not. */
async function change(method, path, body) {
  if (!token.get() && !(await askToken("Changes need the token."))) return "This needs the token.";
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, {
        method,
        headers: withToken(body ? { "Content-Type": "application/json" } : {}),
        body: body ? JSON.stringify(body) : undefined,
      });
    } catch {
      return "Eyeline does not answer.";
    }
    if (answer.status === 401) {
      token.forget();
      if (await askToken("This token was not accepted.")) continue;
      return "This needs the token.";
    }
    const told = await answer.json().catch(() => ({}));
    return answer.ok ? "" : told.error || `Not done (${answer.status}).`;
  }
}

// --- the connection ---

let socket = null;
let failures = 0;
let heardMs = 0;
let readsWithoutToken = true;
let retry = 0;

function notice(text, isBad = false) {
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", isBad);
  setText($("notice"), text);
}

let said = 0;
/** Say something for a while; what concerns the connection stays. */
function say(text) {
  notice(text, true);
  clearTimeout(said);
  said = setTimeout(() => { if (socket?.readyState === WebSocket.OPEN) notice(""); }, 8000);
}

function base64url(text) {
  const bytes = new TextEncoder().encode(text);
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function connect() {
  clearTimeout(retry);
  let answer;
  try {
    answer = await fetch("api/status", { headers: withToken() });
  } catch {
    lost("");
    return;
  }
  if (answer.status === 401) {
    readsWithoutToken = false;
    const why = token.get() ? "This token was not accepted." : "Whoever wants to look needs the token.";
    token.forget();
    if (await askToken(why)) connect();
    else notice("Nothing is shown without the token. Load the page again to enter it.", true);
    return;
  }
  if (!answer.ok) {
    const text = (await answer.json().catch(() => ({}))).error;
    lost(text || `answer ${answer.status}`);
    return;
  }
  const address = new URL("api/live", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const protocols = token.get() ? ["eyeline", `token.${base64url(token.get())}`] : ["eyeline"];
  const opened = new WebSocket(address, protocols);
  opened.binaryType = "arraybuffer";
  socket = opened;
  let isOpen = false;
  opened.onopen = () => {
    isOpen = true;
    failures = 0;
    heardMs = performance.now();
    notice("");
    $("main").classList.remove("stale");
    watched = "";
    watch();
  };
  opened.onmessage = (event) => {
    heardMs = performance.now();
    if (typeof event.data === "string") hear(JSON.parse(event.data));
    else showPicture(event.data);
  };
  opened.onclose = async () => {
    if (socket !== opened) return;
    socket = null;
    let why = "";
    if (!isOpen) {
      // A browser does not tell why it could not be opened; asked without it, the server does.
      const told = await fetch("api/live", { headers: withToken() }).catch(() => null);
      if (told?.status === 503) why = (await told.json().catch(() => ({}))).error || "";
    }
    lost(why);
  };
}

function lost(why) {
  $("main").classList.add("stale");
  const waitMs = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
  failures += 1;
  clearTimeout(said);
  notice(`${why ? `Eyeline says: ${why}.` : "The connection to Eyeline is lost."} What you see is old. Trying again…`, true);
  setText($("summary"), "Not connected");
  clearTimeout(retry);
  retry = setTimeout(connect, waitMs);
}

setInterval(() => {
  if (socket?.readyState === WebSocket.OPEN && performance.now() - heardMs > LOST_MS && !document.hidden) {
    const dead = socket;
    socket = null;
    dead.close();
    lost("");
  }
}, 1000);

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function hear(message) {
  if (message.type === "hello") {
    writes = message.writes;
    adds = message.adds;
    histories = new Map(Object.entries(message.history));
    events = [];
    hearEvents(message.events);
  } else if (message.type === "events") {
    hearEvents(message.events);
  } else if (message.type === "status") {
    hearStatus(message.status, message.samples);
  }
}

// --- pictures ---

let watched = "";
const onScreen = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const name = entry.target.dataset.stream;
    if (entry.isIntersecting) onScreen.add(name);
    else onScreen.delete(name);
  }
  watch();
}, { rootMargin: "100px" });

/** Tell which streams are on the screen, if that has changed. */
function watch() {
  const names = document.hidden ? [] : [...onScreen].sort();
  if (socket?.readyState !== WebSocket.OPEN || names.join() === watched) return;
  watched = names.join();
  send({ watch: names });
}
document.addEventListener("visibilitychange", () => { heardMs = performance.now(); watch(); });

async function showPicture(data) {
  const length = new DataView(data).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  } catch { /* a picture that cannot be shown: the next one may */ }
  requestAnimationFrame(() => {
    if (bitmap) cards.get(head.stream)?.draw(bitmap, head);
    bitmap?.close();
    send({ shown: head.stream });
  });
}

// --- streams ---

let writes = false;
let adds = false;
let histories = new Map();
const cards = new Map();

class Card {
  constructor(name) {
    this.name = name;
    this.title = make("h3", "", name);
    this.state = make("span", "state");
    this.canvas = make("canvas");
    this.canvas.width = 16;
    this.canvas.height = 9;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `Live picture of ${name} with the objects found in it`);
    this.cover = make("div", "cover", "No picture yet");
    this.picture = make("div", "picture", this.canvas, this.cover);
    this.picture.dataset.stream = name;

    this.fps = make("dd");
    this.p50 = make("dd");
    this.p95 = make("dd");
    this.size = make("dd");
    const numbers = make("dl", "numbers");
    for (const [label, value] of [
      ["Frames/s", this.fps], ["Latency p50", this.p50], ["p95", this.p95], ["Picture", this.size],
    ]) numbers.append(make("div", "", make("dt", "", label), value));

    this.curveScale = make("span");
    this.curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.curve.setAttribute("class", "curve");
    this.curve.setAttribute("viewBox", `0 0 ${SAMPLES - 1} 100`);
    this.curve.setAttribute("preserveAspectRatio", "none");
    this.curve.setAttribute("role", "img");
    this.high = this.path("high");
    this.middle = this.path("middle");
    const keys = make("span", "", make("i", "key"), "p50 ", make("i", "key high"), "p95");
    const curve = make("div", "",
      make("div", "part-title", make("span", "", "Latency, last 5 min"), make("span", "", keys, this.curveScale)), this.curve);

    this.bar = make("div", "bar");
    this.bar.setAttribute("aria-hidden", "true");
    this.legend = make("ul", "legend");
    this.sum = make("p", "sum");
    this.captured = make("span");
    const ledger = make("div", "ledger",
      make("div", "part-title", make("span", "", "Every captured frame"), this.captured), this.bar, this.legend, this.sum);

    this.source = make("p", "source");
    this.pause = make("button", "", "Pause");
    this.pause.type = "button";
    this.pause.onclick = () => this.togglePause();
    this.remove = make("button", "", "Remove");
    this.remove.type = "button";
    this.remove.onclick = () => this.askRemove();
    this.enlarge = make("button", "enlarge", "Enlarge");
    this.enlarge.type = "button";
    this.enlarge.onclick = () => {
      const isWide = this.root.classList.toggle("wide");
      setText(this.enlarge, isWide ? "Make smaller" : "Enlarge");
    };
    for (const button of [this.pause, this.remove, this.enlarge]) this.label(button);
    const actions = make("div", "actions", this.pause, this.remove, this.enlarge);

    this.root = make("article", "card panel",
      make("div", "head", this.title, this.state), this.picture,
      make("div", "body", numbers, curve, ledger, this.source, actions));
    this.root.dataset.stream = name;
    this.samples = histories.get(name) || [];
    this.shownMs = 0;
    observer.observe(this.picture);
  }

  path(className) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", className);
    this.curve.append(path);
    return path;
  }

  label(button) {
    button.setAttribute("aria-label", `${button.textContent} ${this.name}`);
  }

  draw(bitmap, head) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    this.canvas.dataset.frame = head.frame;
    this.shownMs = performance.now();
    if (this.condition?.state === "live" || this.condition?.state === "opening") this.cover.hidden = true;
  }

  update(stream, sample) {
    const { condition } = stream;
    this.condition = condition;
    const { state } = condition;
    this.state.className = `state ${state}`;
    setText(this.state, STATES[state] || state);
    this.updateCover(stream);

    if (sample && sample[0] !== this.samples.at(-1)?.[0]) {
      this.samples.push(sample);
      this.drawCurve();
    } else if (!this.high.getAttribute("d")) {
      this.drawCurve();
    }
    const newest = this.samples.at(-1);
    const isOver = state === "ended";
    setText(this.fps, rate(newest && !isOver ? newest[1] : stream.fps));
    const latency = newest && !isOver && newest[2] != null ? [newest[2], newest[3]] : [stream.latency_ms.p50, stream.latency_ms.p95];
    const none = !stream.delivered;
    this.p50.replaceChildren(ms(none ? null : latency[0]), make("small", "", " ms"));
    this.p95.replaceChildren(ms(none ? null : latency[1]), make("small", "", " ms"));
    setText(this.size, stream.width ? `${stream.width}×${stream.height}` : "–");
    if (stream.width) this.picture.style.aspectRatio = `${stream.width} / ${stream.height}`;

    this.updateLedger(stream);
    let about = stream.source;
    if (stream.decoder) about += ` · ${stream.decoder}`;
    if (stream.reconnects) about += ` · came back ${number(stream.reconnects)}×`;
    if (stream.away_s >= 1) about += ` · away ${duration(stream.away_s)} in all`;
    setText(this.source, about);

    this.pause.hidden = !writes || isOver;
    this.remove.hidden = !writes;
    setText(this.pause, state === "paused" ? "Resume" : "Pause");
    this.label(this.pause);
  }

  updateCover({ condition, since }) {
    let text = "";
    if (condition.state === "waiting") {
      text = condition.text || "Waiting for the source";
      const left = Math.ceil(condition.retry_s - since);
      if (condition.retry_s > 0 && left > 0) text += ` — next attempt in ${left} s`;
    } else if (condition.state === "paused") text = "Paused";
    else if (condition.state === "ended") text = condition.text || "The source has ended";
    else if (!this.shownMs) text = condition.state === "opening" ? "Opening the source" : "No picture yet";
    const ageS = Math.floor((performance.now() - this.shownMs) / 1000);
    const isOld = !text && ageS >= 3 && onScreen.has(this.name) && !document.hidden;
    if (isOld) text = `Picture is ${duration(ageS)} old`;
    this.cover.hidden = !text;
    this.cover.classList.toggle("corner", isOld);
    setText(this.cover, text);
  }

  drawCurve() {
    const newest = this.samples.at(-1);
    while (newest && this.samples[0][0] < newest[0] - (SAMPLES - 1) * STEP_MS) this.samples.shift();
    const highest = Math.max(1, ...this.samples.map((sample) => sample[3] || 0));
    const step = 10 ** Math.floor(Math.log10(highest));
    const top = Math.ceil(highest / step) * step;
    const line = (field) => {
      let d = "";
      let before = null;
      for (const sample of this.samples) {
        if (sample[field] == null) { before = null; continue; }
        const x = SAMPLES - 1 - (newest[0] - sample[0]) / STEP_MS;
        const y = 100 - (sample[field] / top) * 96;
        d += `${before && sample[0] - before < GAP_MS ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
        before = sample[0];
      }
      return d;
    };
    this.high.setAttribute("d", line(3));
    this.middle.setAttribute("d", line(2));
    setText(this.curveScale, this.samples.length ? ` · top ${number(top)} ms` : "");
    this.curve.setAttribute("aria-label", newest
      ? `Latency of the last five minutes; now p50 ${ms(newest[2])} ms, p95 ${ms(newest[3])} ms`
      : "Latency, nothing measured yet");
  }

  updateLedger(stream) {
    const parts = [["delivered", stream.delivered, "fill-delivered"]];
    Object.entries(stream.dropped).filter(([, n]) => n).forEach(([cause, n], i) => {
      parts.push([`dropped: ${cause}`, n, `fill-dropped${i % 2 ? " odd" : ""}`]);
    });
    for (const [cause, n] of Object.entries(stream.failed)) {
      if (n) parts.push([cause.startsWith("failed") ? cause : `failed: ${cause}`, n, "fill-failed"]);
    }
    parts.push(["in flight", stream.in_flight, "fill-flight"]);
    this.bar.replaceChildren(...parts.filter(([, n]) => n).map(([, n, fill]) => {
      const part = make("span", fill);
      part.style.flexGrow = n;
      return part;
    }));
    this.legend.replaceChildren(...parts.map(([name, n, fill]) =>
      make("li", "", make("i", `swatch ${fill}`), `${name} `, make("b", "", number(n)))));
    this.bar.hidden = !stream.captured;
    setText(this.captured, `${number(stream.captured)} captured`);
    const sum = stream.delivered + sumOf(stream.dropped) + sumOf(stream.failed) + stream.in_flight;
    this.sum.dataset.captured = stream.captured;
    this.sum.dataset.sum = sum;
    const adds = sum === stream.captured;
    if (!stream.captured) {
      this.sum.className = "sum";
      setText(this.sum, "Nothing captured yet");
      return;
    }
    this.sum.className = adds ? "sum good" : "sum bad";
    const terms = parts.map(([, n]) => number(n)).join(" + ");
    setText(this.sum, adds
      ? `${terms} = ${number(sum)}: all accounted for ✓`
      : `${terms} = ${number(sum)}, but ${number(stream.captured)} were captured`);
  }

  async togglePause() {
    const what = this.condition?.state === "paused" ? "resume" : "pause";
    this.pause.disabled = true;
    const refused = await change("POST", `api/streams/${this.name}/${what}`);
    this.pause.disabled = false;
    if (refused) say(`${this.name}: ${refused}`);
  }

  async askRemove() {
    setText($("remove-what"), `${this.name} is no longer watched. What was recorded of it stays.`);
    if (!(await show($("remove-dialog")))) return;
    const refused = await change("DELETE", `api/streams/${this.name}`);
    if (refused) say(`${this.name}: ${refused}`);
  }

  close() {
    observer.unobserve(this.picture);
    onScreen.delete(this.name);
    this.root.remove();
  }
}

function hearStatus(status, samples) {
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
  hearStages(status);

  const footer = [`Eyeline ${status.version}`, `process ${status.pid}`];
  if (status.config) footer.push(status.config);
  if (status.reloads) footer.push(`settings read anew ${number(status.reloads)}×`);
  const parts = footer.map((text) => make("span", "", text));
  if (!writes) parts.push(make("span", "", "To add, pause or remove streams from here, set a token for the web stage."));
  else if (!adds) parts.push(make("span", "", "To add streams from here, list what may be opened in the sources of the web stage."));
  if (readsWithoutToken) {
    for (const [text, path] of [["Metrics", "metrics"], ["Status as JSON", "api/status"]]) {
      const link = make("a", "", text);
      link.href = path;
      parts.push(link);
    }
  }
  if ($("footer").textContent !== parts.map((part) => part.textContent).join("")) $("footer").replaceChildren(...parts);
  if (status.reload_error) notice(`The newest settings were refused, the old ones are in force: ${status.reload_error}`);
  else if ($("notice").textContent.startsWith("The newest settings")) notice("");
}

function summaryOf(status, samples) {
  const counts = {};
  for (const stream of status.streams) counts[stream.condition.state] = (counts[stream.condition.state] || 0) + 1;
  const away = status.streams.filter((stream) => stream.condition.state === "waiting").map((stream) => stream.name);
  const which = away.length && status.streams.length > 1 ? ` (${away.slice(0, 5).join(", ")}${away.length > 5 ? " …" : ""})` : "";
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

// --- the graph ---

const statuses = [];
const nodes = new Map();
let laidOut = "";

function hearStages(status) {
  if (statuses.length && statuses.at(-1).uptime_s > status.uptime_s) statuses.length = 0;
  statuses.push({ uptime_s: status.uptime_s, processed: new Map(status.stages.map((s) => [s.name, s.processed])) });
  if (statuses.length > RATE_STATUSES) statuses.shift();
  for (const stage of status.stages) {
    let node = nodes.get(stage.name);
    if (!node) {
      node = new Node(stage.name);
      nodes.set(stage.name, node);
    }
    node.update(stage, rateOf(stage.name));
  }
  for (const [name, node] of nodes) {
    if (!status.stages.some((stage) => stage.name === name)) {
      node.root.remove();
      nodes.delete(name);
    }
  }
  lastStages = status.stages;
  layOut(status.stages);
}

function rateOf(stage) {
  const first = statuses[0];
  const last = statuses.at(-1);
  const seconds = last.uptime_s - first.uptime_s;
  if (seconds <= 0 || !first.processed.has(stage)) return null;
  return Math.max(0, (last.processed.get(stage) - first.processed.get(stage)) / seconds);
}

class Node {
  constructor(name) {
    this.rate = make("span", "rate");
    this.fill = make("i");
    this.load = make("div", "load", this.fill);
    this.load.setAttribute("aria-hidden", "true");
    this.work = make("p");
    this.queue = make("p");
    this.more = make("p");
    this.root = make("div", "stage",
      make("div", "name", make("span", "", name), this.rate), this.load, this.work, this.queue, this.more);
    this.root.dataset.stage = name;
    this.root.firstChild.firstChild.title = name;
  }

  update(stage, perSecond) {
    const workers = stage.workers.length;
    const load = Math.min(1, ((perSecond || 0) * stage.busy_ms.p50) / 1000 / Math.max(1, workers));
    const waiting = (stage.waited_ms * (perSecond || 0)) / 1000;
    setText(this.rate, perSecond == null ? "–" : `${rate(perSecond)}/s`);
    this.fill.style.width = `${Math.round(load * 100)}%`;
    this.fill.classList.toggle("high", load > 0.9);
    setText(this.work, `${ms(stage.busy_ms.p50)} ms · ${Math.round(load * 100)} % busy`);
    setText(this.queue, stage.after == null ? "the first stage" : `${waiting.toFixed(1)} waiting · ${ms(stage.waited_ms)} ms`);
    const down = stage.workers.filter((worker) => !worker.pid).length;
    const facts = [];
    if (down) facts.push("being started");
    if (stage.restarts) facts.push(`restarted ${number(stage.restarts)}×`);
    if (stage.failed) facts.push(`${number(stage.failed)} failed`);
    if (stage.facts.trouble) facts.push(stage.facts.trouble);
    const isTrouble = facts.length > 0;
    if (!isTrouble && stage.facts.provider) facts.push(stage.facts.provider);
    if (!isTrouble && stage.facts.decoder) facts.push(stage.facts.decoder);
    if (workers > 1) facts.push(`${workers} processes`);
    for (const [what, count] of Object.entries(stage.counts)) if (count) facts.push(`${number(count)} ${what.replaceAll("_", " ")}`);
    if (!facts.length && stage.use !== stage.name) facts.push(stage.use);
    this.more.classList.toggle("trouble", isTrouble);
    const text = facts.join(" · ");
    setText(this.more, text);
    this.root.title = [text, ...Object.entries(stage.facts).map(([key, value]) => `${key}: ${value}`)].join("\n");
  }
}

/** Put the stages in columns by depth; where there is no room for that, below one another. */
function layOut(stages) {
  const graph = $("graph");
  const width = graph.clientWidth;
  const key = `${width} ${stages.map((stage) => `${stage.name}<${stage.after}`).join()}`;
  if (key === laidOut) return;
  laidOut = key;

  const next = new Map();
  for (const stage of stages) {
    const known = stages.some((other) => other.name === stage.after);
    const parent = known ? stage.after : null;
    next.set(parent, [...(next.get(parent) || []), stage.name]);
  }
  const depthOf = (name) => 1 + Math.max(0, ...(next.get(name) || []).map(depthOf));
  const columns = Math.max(1, ...(next.get(null) || []).map(depthOf));
  const [gap, height, edge] = [26, 96, 14];
  const isWide = width >= WIDE_PX && (width - 2 * edge + gap) / columns - gap >= 130;
  const places = new Map();
  let rows = 0;
  const across = (name, depth) => {
    const children = next.get(name) || [];
    const first = rows;
    children.forEach((child, i) => {
      if (i) rows += 1;
      across(child, depth + 1);
    });
    places.set(name, { depth, row: (first + rows) / 2 });
  };
  const down = (name, depth) => {
    places.set(name, { depth, row: rows });
    rows += 1;
    const children = next.get(name) || [];
    for (const child of children) down(child, depth + (children.length > 1 ? 1 : 0));
  };
  (next.get(null) || []).forEach((root, i) => {
    if (isWide) {
      if (i) rows += 1;
      across(root, 0);
    } else down(root, 0);
  });

  const boxWidth = isWide ? Math.min(220, (width - 2 * edge + gap) / columns - gap) : 0;
  // The room that is left goes between them.
  const between = columns > 1 ? Math.min(90, (width - 2 * edge - columns * boxWidth) / (columns - 1)) : gap;
  const rowHeight = height + (isWide ? 14 : 18);
  const at = new Map();
  for (const [name, { depth, row }] of places) {
    const x = edge + (isWide ? depth * (boxWidth + between) : depth * 24);
    at.set(name, { x, y: edge + row * rowHeight, w: isWide ? boxWidth : width - x - edge });
  }
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  for (const stage of stages) {
    const [from, to] = [at.get(stage.after), at.get(stage.name)];
    if (!from) continue;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const middle = height / 2;
    if (isWide) {
      const [x1, y1, x2, y2] = [from.x + from.w, from.y + middle, to.x, to.y + middle];
      const bend = (x1 + x2) / 2;
      path.setAttribute("d", `M${x1} ${y1}C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`);
    } else if (to.x === from.x) {
      path.setAttribute("d", `M${from.x + 24} ${from.y + height}V${to.y}`);
    } else {
      path.setAttribute("d", `M${from.x + 12} ${from.y + height}V${to.y + middle}H${to.x}`);
    }
    svg.append(path);
  }
  graph.replaceChildren(svg);
  for (const stage of stages) {
    const { root } = nodes.get(stage.name);
    const { x, y, w } = at.get(stage.name);
    Object.assign(root.style, { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${height}px` });
    graph.append(root);
  }
  const lowest = Math.max(0, ...[...at.values()].map(({ y }) => y));
  graph.style.height = `${lowest + height + edge + 2}px`;
}

let lastStages = [];
new ResizeObserver(() => { if (lastStages.length) layOut(lastStages); }).observe($("graph"));

// --- events ---

let events = [];

function hearEvents(more) {
  events.push(...more);
  // So many of each: a busy street must not wash away that a camera has gone.
  const objects = events.filter((event) => event.label).slice(-EVENTS_SHOWN);
  const others = events.filter((event) => !event.label).slice(-EVENTS_SHOWN);
  events = [...objects, ...others].sort((one, other) => one.number - other.number);
  listEvents();
}

function listEvents() {
  const kind = $("events-kind").value;
  const chosen = events.filter((event) => kind === "all" || (kind === "objects") === Boolean(event.label));
  const lines = chosen.slice(-EVENTS_SHOWN).reverse().map(lineOf);
  $("events").replaceChildren(...(lines.length ? lines : [make("li", "none", "Nothing yet.")]));
}
$("events-kind").onchange = listEvents;

function lineOf(event) {
  const time = make("time", "", new Date(event.at).toLocaleTimeString([], { hour12: false }));
  time.dateTime = event.at;
  time.title = new Date(event.at).toLocaleString();
  let { text } = event;
  if (event.label) {
    const which = event.id == null ? "" : ` ${event.id}`;
    text = `${event.label}${which} ${text}`;
    if (event.text.startsWith("appeared")) text += `, score ${(event.score || 0).toFixed(2)}`;
  }
  return make("li", "", time, make("span", "of", event.stream || "run"), make("span", event.urgent ? "urgent" : "", text));
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
  if (refused) say(`The settings stay as they are: ${refused}`);
};

connect();
