"use strict";

// The dialogs, the token, and changes that need it.

const WRONG_TOKEN = "The token was not accepted.";

const token = {
  get: () => sessionStorage.getItem("eyeline-token") || "",
  set: (value) => sessionStorage.setItem("eyeline-token", value),
  forget: () => sessionStorage.removeItem("eyeline-token"),
};

/** Show a dialog; resolve to true when it is submitted, to false when it is cancelled. */
function show(dialog, prepare = () => {}) {
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    const end = (isSubmitted) => {
      form.onsubmit = dialog.onclose = null;
      if (dialog.open) dialog.close();
      resolve(isSubmitted);
    };
    prepare();
    form.onsubmit = (event) => { event.preventDefault(); end(true); };
    dialog.querySelector("[value=cancel]").onclick = () => end(false);
    dialog.onclose = () => end(false);
    dialog.showModal();
  });
}

async function askToken(reason) {
  setText($("token-why"), reason);
  $("token").value = "";
  if (!(await show($("token-dialog")))) return false;
  token.set($("token").value.trim());
  return true;
}

function withToken(headers = {}) {
  return token.get() ? { ...headers, Authorization: `Bearer ${token.get()}` } : headers;
}

/** Send a change to Eyeline; resolve to "" when it is done, else to the reason why not. */
async function change(method, path, body) {
  if (!token.get() && !(await askToken("The token is required for changes."))) return "the token is required";
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, {
        method,
        headers: withToken(body ? { "Content-Type": "application/json" } : {}),
        body: body ? JSON.stringify(body) : undefined,
      });
    } catch {
      return "no answer from Eyeline";
    }
    if (answer.status === 401) {
      token.forget();
      if (await askToken(WRONG_TOKEN)) continue;
      return "the token is required";
    }
    const result = await answer.json().catch(() => ({}));
    return answer.ok ? "" : result.error || `HTTP status ${answer.status}`;
  }
}
