// The live page: a picture and a prompt to the server, its boxes on the screen. Pictures come in through input.js.
"use strict";

const TYPING_PAUSE = 250; // ms without a key before a prompt is sent
const LONGEST_WAIT = 30; // s before a busy server is asked again

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));
const client = new DetectClient();
const view = new PictureView(at.picture);
const list = new DetectionList(at.list);
const legend = new Legend(at.legend);

let model = null; // the server's /v1/model
let picture = null; // {file, name, id, url}: what is shown; id once the server knows it
let answer = null; // {asked, result, timing, cached, warnings} of the picture shown
let pending = null; // the request whose answer is waited for
let timer = 0;

/** Takes over as the picture shown and asks about it; reads it into memory, as a file may change or vanish. */
async function showPicture(file, note = "") {
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    showError(`${file.name} cannot be read; a folder is no picture.`);
    return;
  }
  if (model && bytes.byteLength > model.max_bytes) {
    showError(`${file.name} has ${megabytes(bytes.byteLength)}; this server takes ${megabytes(model.max_bytes)}.`);
    return;
  }
  setPicture({ file: new Blob([bytes], { type: file.type }), name: file.name || "pasted picture", id: null });
  answer = null;
  view.setDetections([]);
  at.panel.hidden = true;
  showError("");
  say(note);
  ask();
}

function setPicture(next) {
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { ...next, url: next.url ?? URL.createObjectURL(next.file) };
  at.image.src = picture.url;
  at["no-preview"].hidden = true;
  at.work.classList.remove("empty");
  at.invitation.hidden = true;
  at.canvas.hidden = false;
  at.choose.textContent = "Another picture";
  at["picture-name"].textContent = picture.name;
}

/** Back to the invitation: what was given is no picture. */
function forgetPicture() {
  URL.revokeObjectURL(picture.url);
  picture = null;
  at.image.removeAttribute("src");
  at.work.classList.add("empty");
  at.invitation.hidden = false;
  at.canvas.hidden = true;
  at.choose.textContent = "Choose a picture";
  at["picture-name"].textContent = "";
}

/** Sends the prompt about the picture shown, unless there is nothing to ask. Only the last one's answer is shown. */
async function ask() {
  clearTimeout(timer);
  if (camera.running) return; // the next frame takes the prompt
  const asked = question();
  if (!picture) {
    if (asked) say("Now choose a picture.");
    return;
  }
  if (pending?.picture === picture && picture.id === null) {
    // The picture is on its way: stopped now, its features would be computed again. Its answer is not shown.
    pending.outdated = JSON.stringify(pending.asked) !== JSON.stringify(asked);
    return;
  }
  pending?.controller.abort();
  pending = null;
  if (!asked) {
    setBusy(false);
    at.panel.hidden = true;
    view.setDetections([]);
    answer = null;
    showError("");
    say(whatIsMissing());
    return;
  }
  const request = { picture, asked, controller: new AbortController(), outdated: false };
  pending = request;
  setBusy(true);
  try {
    const body = await client.detect(picture, asked, request.controller.signal);
    if (pending === request && !request.outdated) showAnswer(asked, body);
  } catch (error) {
    if (pending === request && !request.outdated) showFailure(error);
  }
  if (pending !== request) return; // a later request has taken over
  pending = null;
  setBusy(false);
  if (request.outdated) ask();
}

function showAnswer(asked, body) {
  const [result] = body.results;
  answer = { asked, result, timing: body.timing_ms, cached: body.cached[0], warnings: body.warnings ?? [] };
  view.setSize(result.image.width, result.image.height);
  view.setDetections(result.detections);
  list.setDetections(result.detections);
  legend.setClasses(result.classes);
  at["picture-name"].textContent = `${picture.name}, ${result.image.width} × ${result.image.height}`;
  at["no-preview"].hidden = !(at.image.complete && at.image.naturalWidth === 0);
  at.panel.hidden = false;
  showError("");
  showTimes();
  filter();
  announce();
}

/** Shows what scores enough and is not hidden by its name: no request, the answer holds every box. */
function filter() {
  const threshold = Number(at.score.value);
  at["score-value"].textContent = threshold.toFixed(2);
  if (!answer) return;
  const { detections } = answer.result;
  const visible = visibleDetections(detections, threshold, legend.hiddenNames);
  const shown = visible.filter(Boolean).length;
  view.setVisible(visible);
  list.setVisible(visible);
  legend.setCounts(countByLabel(detections, threshold));
  at.shown.textContent = `${shown} of ${detections.length}`;
  at.score.setAttribute("aria-valuetext", `${threshold.toFixed(2)}, ${shown} of ${detections.length} boxes`);
  at.copy.disabled = detections.length === 0;
  at.none.hidden = shown > 0;
  const best = detections.find(({ name }) => !legend.hiddenNames.has(name));
  at.none.textContent = best
    ? `Nothing scores ${threshold.toFixed(2)}; the best is ${nameOf(best)} at ${best.score.toFixed(2)}.`
    : "Nothing to show.";
}

function announce() {
  if (!answer) return;
  const how = answer.cached ? ", picture features reused" : "";
  const said = `${at.shown.textContent} boxes shown. Answered in ${milliseconds(answer.timing.total)}${how}.`;
  say([...answer.warnings.map((warning) => `Note: ${warning}.`), said].join(" "));
}

const STAGES = [["queue", "waiting"], ["image", "picture"], ["text", "text"], ["head", "fusion head"]];

function showTimes() {
  const { timing, cached } = answer;
  at.total.textContent = milliseconds(timing.total);
  const sum = STAGES.reduce((total, [key]) => total + timing[key], 0) || 1;
  at["time-bar"].replaceChildren(...STAGES.map(([key]) => {
    const part = element("span", `time-${key}`);
    part.style.width = `${(timing[key] / sum) * 100}%`;
    return part;
  }));
  at.times.replaceChildren(...STAGES.map(([key, words]) => {
    const entry = element("li");
    const value = key === "image" && cached ? "kept" : milliseconds(timing[key]);
    entry.append(element("span", `dot time-${key}`), `${words} `, element("b", "", value));
    return entry;
  }));
  at.cached.textContent = cached
    ? "The picture's features were kept: only the text and the fusion head ran."
    : "The picture was encoded for this answer; the next prompt reuses it.";
}

function showFailure(error) {
  if (error.code === "unauthorized") {
    askToken();
  } else if (error.code === "busy") {
    const seconds = Math.min(Math.max(error.retryAfter, 0.5), LONGEST_WAIT);
    say(`The server is busy; asking again in ${Math.ceil(seconds)} s.`);
    timer = setTimeout(ask, seconds * 1000);
  } else {
    if (error.code === "bad_image" && !answer) forgetPicture();
    showError(error.message, !["bad_image", "bad_prompt", "bad_request", "too_large"].includes(error.code));
  }
}

/** One line about what went wrong, or "" to take it away. */
function showError(message, retry = false) {
  at.message.hidden = message === "";
  at.error.textContent = message;
  at.again.hidden = !retry;
  if (message) say("");
  at.picture.classList.toggle("outdated", message !== "");
}

function say(words) {
  at.status.textContent = words;
}

function setBusy(busy) {
  at.stage.classList.toggle("busy", busy);
  at.stage.setAttribute("aria-busy", `${busy}`);
  if (busy && !answer) say("Looking …");
}

async function loadModel() {
  try {
    model = await client.model();
    const limits = `pictures up to ${megabytes(model.max_bytes)}, ${model.max_names} names`;
    at.model.replaceChildren(
      element("span", "model-name", `${model.name} on ${model.backend}`),
      element("span", "model-limits", `glip-export ${model.version}, ${limits}`),
    );
  } catch (error) {
    at.model.textContent = "";
    showFailure(error);
  }
}

function askToken() {
  if (at["token-dialog"].open) return;
  at["token-error"].textContent = client.token ? "The server did not take that token." : "";
  client.token = "";
  at.token.value = "";
  at["token-dialog"].showModal();
}

at["token-form"].addEventListener("submit", async (event) => {
  event.preventDefault();
  client.token = at.token.value.trim();
  at["token-dialog"].close();
  showError("");
  await loadModel();
  ask();
});
at["token-cancel"].addEventListener("click", () => at["token-dialog"].close());
at["token-dialog"].addEventListener("close", () => {
  if (!client.token) showError("The server answers only with its token.", true);
});

at.ask.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
at.prompt.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(ask, TYPING_PAUSE);
});
for (const chip of document.querySelectorAll(".chip")) {
  chip.addEventListener("click", () => { at.prompt.value = chip.dataset[kind()]; ask(); });
}
for (const choice of document.querySelectorAll("[name=kind]")) {
  choice.addEventListener("change", () => { showKind(); ask(); });
}
at.again.addEventListener("click", async () => {
  showError("");
  if (!model) await loadModel();
  ask();
});
at.score.addEventListener("input", filter);
at.score.addEventListener("change", announce);
legend.onchange = () => { filter(); announce(); };
list.onactive = (index) => { view.setActive(index); list.setActive(index, false); };
view.onpoint = (index) => { view.setActive(index); list.setActive(index, true); };

at.image.addEventListener("load", () => {
  if (!answer) view.setSize(at.image.naturalWidth, at.image.naturalHeight);
});
at.image.addEventListener("error", () => { at["no-preview"].hidden = !answer; });

at.copy.addEventListener("click", async () => {
  const { asked, result } = answer;
  const threshold = Number(at.score.value);
  const visible = visibleDetections(result.detections, threshold, legend.hiddenNames);
  const detections = result.detections.filter((_, index) => visible[index]);
  await copyText(JSON.stringify({ ...asked, threshold, ...result, detections }, null, 1));
  say(`Copied ${detections.length} detections as JSON.`);
});

async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = element("textarea", "unseen"); // pages from plain http have no other way
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  at.copy.focus();
}

function milliseconds(value) {
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(2)} s`;
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${Number((bytes / 1e6).toFixed(1))} MB`;
}

// A link may say what to look for: /?prompt=cat.%20dog&score=0.3, /?sentence=[a%20cat]%20on%20[a%20mat]
const link = new URLSearchParams(location.search);
at["as-sentence"].checked = link.has("sentence");
at.prompt.value = link.get(kind()) ?? "";
at.score.value = link.get("score") ?? at.score.defaultValue;
showKind();
filter();
loadModel();
