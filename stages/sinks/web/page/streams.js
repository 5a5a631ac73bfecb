"use strict";

// The card of each stream: its live image, rate, latency and ledger.

const MAX_SAMPLES = 150; // points of a curve
const SAMPLE_INTERVAL_MS = 2000; // between two points
const MAX_DESCRIBED = 5; // classes of a frame, and objects with classes
const GAP_MS = 15000; // time without a sample after which the curve is broken
const STATES = {
  live: "● Live", waiting: "◌ Waiting", paused: "❚❚ Paused", ended: "■ Ended", opening: "… Opening",
};

// --- images ---

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

/** Send which streams are on the screen, if that has changed. */
function watch() {
  const names = document.hidden ? [] : [...onScreen].sort();
  if (socket?.readyState !== WebSocket.OPEN || names.join() === watched) return;
  watched = names.join();
  send({ watch: names });
}
document.addEventListener("visibilitychange", () => { receivedMs = performance.now(); watch(); });

async function showImage(data) {
  const length = new DataView(data).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  } catch { /* An image that cannot be shown is skipped. */ }
  requestAnimationFrame(() => {
    if (bitmap) cards.get(head.stream)?.draw(bitmap, head);
    bitmap?.close();
    send({ shown: head.stream });
  });
}

// --- cards ---

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
    this.canvas.setAttribute("aria-label", `Live image of ${name} with its detected objects`);
    this.cover = make("div", "cover", "No image yet");
    this.image = make("div", "image", this.canvas, this.cover);
    this.image.dataset.stream = name;

    this.fps = make("dd");
    this.p50 = make("dd");
    this.p95 = make("dd");
    this.size = make("dd");
    const numbers = make("dl", "numbers");
    for (const [label, value] of [
      ["Frames/s", this.fps], ["Latency p50", this.p50], ["p95", this.p95], ["Image size", this.size],
    ]) numbers.append(make("div", "", make("dt", "", label), value));

    this.curveScale = make("span");
    this.curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.curve.setAttribute("class", "curve");
    this.curve.setAttribute("viewBox", `0 0 ${MAX_SAMPLES - 1} 100`);
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
      make("div", "part-title", make("span", "", "Captured frames"), this.captured), this.bar, this.legend, this.sum);

    this.found = make("p", "found");
    this.found.hidden = true;
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
      setText(this.enlarge, isWide ? "Shrink" : "Enlarge");
    };
    for (const button of [this.pause, this.remove, this.enlarge]) this.label(button);
    const actions = make("div", "actions", this.pause, this.remove, this.enlarge);

    this.root = make("article", "card panel",
      make("div", "head", this.title, this.state), this.image,
      make("div", "body", this.found, numbers, curve, ledger, this.source, actions));
    this.root.dataset.stream = name;
    this.samples = histories.get(name) || [];
    this.shownMs = 0;
    observer.observe(this.image);
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
    this.describe(head);
    if (this.condition?.state === "live" || this.condition?.state === "opening") this.cover.hidden = true;
  }

  /** Write the classes of the frame, and the objects that other models have classified. */
  describe({ labels = [], objects = [] }) {
    const parts = labels.slice(0, MAX_DESCRIBED).map(({ label, score }) => `${label} ${score.toFixed(2)}`);
    for (const object of objects.filter(attributesOf).slice(0, MAX_DESCRIBED)) {
      parts.push(`${object.label}${object.id == null ? "" : ` ${object.id}`}: ${attributesOf(object)}`);
    }
    this.found.hidden = !parts.length;
    setText(this.found, parts.join(" · "));
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
    if (stream.width) this.image.style.aspectRatio = `${stream.width} / ${stream.height}`;

    this.updateLedger(stream);
    let about = stream.source;
    if (stream.decoder) about += ` · ${stream.decoder}`;
    if (stream.reconnects) about += ` · reconnected ${number(stream.reconnects)}×`;
    if (stream.away_s >= 1) about += ` · unavailable for ${duration(stream.away_s)} in total`;
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
      if (condition.retry_s > 0 && left > 0) text += ` — retrying in ${left} s`;
    } else if (condition.state === "paused") text = "Paused";
    else if (condition.state === "ended") text = condition.text || "The source has ended";
    else if (!this.shownMs) text = condition.state === "opening" ? "Opening the source" : "No image yet";
    const ageS = Math.floor((performance.now() - this.shownMs) / 1000);
    const isOld = !text && ageS >= 3 && onScreen.has(this.name) && !document.hidden;
    if (isOld) text = `Image is ${duration(ageS)} old`;
    this.cover.hidden = !text;
    this.cover.classList.toggle("corner", isOld);
    setText(this.cover, text);
  }

  drawCurve() {
    const newest = this.samples.at(-1);
    while (newest && this.samples[0][0] < newest[0] - (MAX_SAMPLES - 1) * SAMPLE_INTERVAL_MS) this.samples.shift();
    const highest = Math.max(1, ...this.samples.map((sample) => sample[3] || 0));
    const step = 10 ** Math.floor(Math.log10(highest));
    const top = Math.ceil(highest / step) * step;
    const line = (field) => {
      let d = "";
      let before = null;
      for (const sample of this.samples) {
        if (sample[field] == null) { before = null; continue; }
        const x = MAX_SAMPLES - 1 - (newest[0] - sample[0]) / SAMPLE_INTERVAL_MS;
        const y = 100 - (sample[field] / top) * 96;
        d += `${before && sample[0] - before < GAP_MS ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
        before = sample[0];
      }
      return d;
    };
    this.high.setAttribute("d", line(3));
    this.middle.setAttribute("d", line(2));
    setText(this.curveScale, this.samples.length ? ` · 0 to ${number(top)} ms` : "");
    this.curve.setAttribute("aria-label", newest
      ? `Latency of the last five minutes; now p50 ${ms(newest[2])} ms, p95 ${ms(newest[3])} ms`
      : "Latency, not measured yet");
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
      setText(this.sum, "No frames captured yet");
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
    if (refused) flash(`${this.name}: ${refused}`);
  }

  async askRemove() {
    setText($("remove-what"), `Eyeline stops reading ${this.name}. Its recordings are kept.`);
    if (!(await show($("remove-dialog")))) return;
    const refused = await change("DELETE", `api/streams/${this.name}`);
    if (refused) flash(`${this.name}: ${refused}`);
  }

  close() {
    observer.unobserve(this.image);
    onScreen.delete(this.name);
    this.root.remove();
  }
}
