"use strict";

// The connection. All data comes over one WebSocket: the status each second, events as they happen,
// and the images of the streams that are on the screen. The next image of a stream is sent when the
// last one has been shown, so a slow viewer gets fewer images and never old ones.

const LOST_MS = 10000; // without a message from the server
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

let socket = null;
let failures = 0;
let receivedMs = 0;
let readsWithoutToken = true;
let retry = 0;

function notice(text, isBad = false) {
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", isBad);
  setText($("notice"), text);
}

let hiding = 0;
/** Show a message for 8 s; a message about the connection stays. */
function flash(text) {
  notice(text, true);
  clearTimeout(hiding);
  hiding = setTimeout(() => { if (socket?.readyState === WebSocket.OPEN) notice(""); }, 8000);
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
    const reason = token.get() ? WRONG_TOKEN : "The token is required to see this page.";
    token.forget();
    if (await askToken(reason)) connect();
    else notice("Nothing is shown without the token. Reload the page to enter it.", true);
    return;
  }
  if (!answer.ok) {
    const text = (await answer.json().catch(() => ({}))).error;
    lost(text || `HTTP status ${answer.status}`);
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
    receivedMs = performance.now();
    notice("");
    $("main").classList.remove("stale");
    watched = "";
    watch();
  };
  opened.onmessage = (event) => {
    receivedMs = performance.now();
    if (typeof event.data === "string") receive(JSON.parse(event.data));
    else showImage(event.data);
  };
  opened.onclose = async () => {
    if (socket !== opened) return;
    socket = null;
    let reason = "";
    if (!isOpen) {
      // A browser hides why a WebSocket could not be opened; a plain request gets the reason.
      const refusal = await fetch("api/live", { headers: withToken() }).catch(() => null);
      if (refusal?.status === 503) reason = (await refusal.json().catch(() => ({}))).error || "";
    }
    lost(reason);
  };
}

function lost(reason) {
  $("main").classList.add("stale");
  const waitMs = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
  failures += 1;
  clearTimeout(hiding);
  const what = reason ? `Eyeline refused the connection: ${reason}.` : "The connection to Eyeline is lost.";
  notice(`${what} The values on this page are old. Reconnecting…`, true);
  setText($("summary"), "Not connected");
  clearTimeout(retry);
  retry = setTimeout(connect, waitMs);
}

setInterval(() => {
  if (socket?.readyState === WebSocket.OPEN && performance.now() - receivedMs > LOST_MS && !document.hidden) {
    const dead = socket;
    socket = null;
    dead.close();
    lost("");
  }
}, 1000);

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}
