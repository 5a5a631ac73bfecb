"use strict";

// The graph of the stages, with the rate and the load of each.

const RATE_STATUSES = 6; // status messages over which the rate of a stage is computed
const MIN_COLUMNS_PX = 720; // width from which the graph is laid out in columns

const statuses = [];
const nodes = new Map();
let laidOut = "";

function updateStages(status) {
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
    setText(this.queue, stage.after == null ? "first stage" : `${waiting.toFixed(1)} waiting · ${ms(stage.waited_ms)} ms`);
    const down = stage.workers.filter((worker) => !worker.pid).length;
    const facts = [];
    if (down) facts.push("starting");
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

/** Lay out the stages in columns by depth; on a narrow screen, one below the other. */
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
  const isWide = width >= MIN_COLUMNS_PX && (width - 2 * edge + gap) / columns - gap >= 130;
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
  // The remaining width goes between the columns.
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
