// The page: it takes pictures, sends them to the service, and shows the answers.

import { Album, forgetTab } from "./album.js";
import { drawAnswer } from "./answer.js";
import { ask, forgetKey, hasKey, Problem, whenAKeyIsNeeded } from "./api.js";
import { Busy } from "./busy.js";
import { drawCases } from "./cases.js";
import * as controls from "./controls.js";
import { askForKey, tellAbout } from "./dialogs.js";
import { curlOf, fileOf, nameOf, pythonOf, recordOf, save } from "./downloads.js";
import { listenForPictures } from "./intake.js";
import { element, painted, say } from "./page.js";
import { formOf, similar } from "./questions.js";
import { whenNotKept } from "./storage.js";
import { drawStrip } from "./strip.js";
import { Viewer } from "./viewer.js";
import { minutes } from "./words.js";

const album = new Album();
const busy = new Busy(element("view"));
const viewer = new Viewer(busy);
const waiting = []; // entries to send, one after the other
const moment = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const STATUS = { waiting: "Waiting for its turn…", looking: "Looking at the picture…" };
const EXPIRED =
  "This prediction has expired, and the service has forgotten it. To ask more about the picture, send it again.";
const MOST_NAMES = 6; // class names shown beside the model's name
let isSending = false;
let model = null;
let reading = null; // the pending request for the model's card, shared by all callers
let current = null;

/** Run an action, and show its error if it throws a Problem. */
async function attempt(action) {
  say("problem", "");
  try {
    await action();
  } catch (error) {
    report(error);
  }
}

function report(error) {
  if (!(error instanceof Problem)) throw error;
  say("problem", error.message);
  draw();
}

function readModel() {
  reading ??= ask("model", (response) => response.json()).then(introduce).finally(() => { reading = null; });
  return reading;
}

function introduce(card) {
  model = card;
  const classes = model.classes.length > MOST_NAMES ? `${model.classes.length} classes` : model.classes.join(", ");
  say("model-name", `${model.name} ${model.version}: ${classes}`);
  say(
    "purpose",
    "See what the model answers, and what it saw. A picture and its answer stay with this service for at most " +
      `${minutes(model.limits.store_ttl_s)}, and you can have them forgotten at once.`,
  );
  controls.offer(model);
  element("docs").hidden = !model.docs;
  draw();
}

function take(files) {
  const entries = album.add(files);
  send(entries); // sent first, so that the service works while they are drawn
  select(entries[0]);
}

async function send(entries) {
  waiting.push(...entries);
  if (isSending) return;
  isSending = true;
  try {
    while (waiting.length) await predict(waiting.shift());
  } finally {
    isSending = false;
  }
}

async function predict(entry) {
  try {
    const answered = ask("predict", readAnswer, { method: "POST", body: formOf(entry) });
    album.update(entry, { state: "looking", why: "" });
    tellState(entry);
    album.update(entry, { state: "answered", ...await answered });
  } catch (error) {
    album.update(entry, { state: "failed", why: error.message });
    if (!(error instanceof Problem)) throw error;
  } finally {
    tellState(entry);
    if (entry === current) show(entry);
  }
}

/** The answer, when it came and when it expires, by this browser's clock. */
async function readAnswer(response) {
  const answer = await response.json();
  const at = Date.now();
  const sent_ms = Date.parse(response.headers.get("Date")); // some proxies remove it
  const kept_ms = Date.parse(answer.expires_at) - (Number.isNaN(sent_ms) ? at : sent_ms);
  return { answer, at, until: answer.stored ? at + kept_ms : null };
}

/** Show an entry of the strip, or nothing if it is null. */
function select(entry) {
  if (entry !== current) drawCases(null);
  current = entry;
  say("status", "");
  say("problem", "");
  draw();
  if (entry !== null) tellState(entry);
  show(entry);
}

function tellState(entry) {
  if (entry !== current) return;
  say("status", STATUS[entry.state] ?? "");
  say("problem", entry.why);
}

async function show(entry) {
  viewer.show(entry);
  if (!entry?.answer) return;
  await attempt(() => explain(entry).catch((error) => {
    if (entry === current || !(error instanceof Problem)) throw error; // else the user has moved on
  }));
}

async function explain(entry) {
  const ready = prepare(entry);
  const others = [fetchPicture, showCases].map((one) => busy.until(ready.then(() => one(entry)), entry));
  await Promise.all([viewer.ask(ready), ...others]);
}

/** Show the training pictures that the picture resembles, if the model has an index of them. */
async function showCases(entry) {
  const answer = model.cases === null ? null : await similar(entry);
  if (entry === current) drawCases(answer);
}

/** Prepare the controls for an answer, after loading the card of the model that gave it. */
async function prepare(entry) {
  if (entry.answer.model.sha256 !== model?.sha256) await readModel();
  if (entry !== current) return;
  controls.startWith(entry.answer.label);
  await painted(); // show the answer first, because explaining keeps all cores of the service busy
}

/** Fetch the service's preview: the first frame, upright, as the model saw it. All callers share one request. */
async function fetchPicture(entry) {
  if (!entry.answer.stored) return;
  entry.fetched ??= ask(`predictions/${entry.id}/picture`, (response) => response.blob()).then(
    (content) => album.picture(entry, content),
    (error) => {
      entry.fetched = null; // allow another try
      throw error;
    },
  );
  await entry.fetched;
  if (entry === current) viewer.show(entry);
}

/** Fetch the previews of entries from earlier visits or other tabs. Entries that the service forgot are removed. */
async function restore() {
  for (const entry of album.entries.filter(({ answer, address, fetched }) => answer && !address && !fetched)) {
    try {
      await fetchPicture(entry);
    } catch (error) {
      if (!error.isGone) throw error;
      album.remove(entry);
    }
  }
}

function draw() {
  element("about-open").hidden = model === null;
  element("key-forget").hidden = !hasKey();
  for (const id of ["view", "controls"]) element(id).inert = model === null;
  element("history").hidden = album.entries.length === 0;
  drawStrip(element("strip"), album.entries, current, select);
  document.body.classList.toggle("started", album.entries.length > 0 || current !== null);
  element("result").hidden = current === null;
  element("again").hidden = current?.state !== "failed";
  if (current === null) return;
  const { state, answer, name, at, until } = current;
  element("result").dataset.state = state;
  say("picture-name", name);
  if (!answer) return;
  say("answered-at", moment.format(at));
  drawAnswer(answer, model);
  const kept = state === "expired" ? "Expired." : `Kept until ${clock.format(until)}.`;
  say("kept-until", answer.stored ? kept : "Not kept by the service.");
  element("forget").disabled = !answer.stored || state === "expired";
}

async function forget(entries) {
  element("choose").focus(); // the focused button is about to disappear
  for (const entry of entries) {
    try {
      if (entry.id !== null) await ask(`predictions/${entry.id}`, () => null, { method: "DELETE" });
    } catch (error) {
      if (!error.isGone) throw error;
    }
    album.remove(entry);
  }
}

const question = () => ({ ...viewer.question(), ...controls.styleParameters() });

async function saveAs(format) {
  const entry = current;
  // For a comparison, the raw map and the record are those of the fusion.
  const asked = controls.view() === "branches" && format !== "png" ? controls.evidence("fusion") : viewer.question();
  const name = nameOf(entry, asked, format);
  if (format === "json") save(await recordOf(entry, asked), name);
  else save(await fileOf(entry, format === "png" ? question() : asked, format), name);
}

async function copy(language) {
  const text = (language === "curl" ? curlOf : pythonOf)(current, question(), hasKey());
  const snippet = element("snippet");
  say("status", "");
  snippet.value = text;
  snippet.hidden = false;
  snippet.select();
  try {
    await navigator.clipboard.writeText(text);
    say("status", "Copied.");
  } catch (error) {
    if (!(error instanceof DOMException || error instanceof TypeError)) throw error; // not allowed, or no such API
    say("status", "The browser does not let this page copy: the command is selected below.");
  }
}

album.addEventListener("change", () => {
  if (current?.state === "expired") {
    say("problem", EXPIRED);
  } else if (current !== null && !album.entries.includes(current)) {
    select(null);
    say("status", "Forgotten.");
    return;
  }
  draw();
  if (model !== null) {
    restore().catch((error) => {
      if (current?.state !== "failed" || !(error instanceof Problem)) report(error);
    });
  }
});
for (const control of document.querySelectorAll("#views input, #controls fieldset:first-of-type :is(select, input)")) {
  control.addEventListener("change", () => {
    controls.agree();
    attempt(() => viewer.ask());
  });
}
for (const id of ["opacity", "threshold", "contour", "colormap"]) {
  element(id).addEventListener("input", () => {
    controls.agree();
    viewer.paint();
  });
}
for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => attempt(() => saveAs(button.dataset.save)));
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button.dataset.copy));
}
element("again").addEventListener("click", () => {
  element("result").focus();
  album.update(current, { state: "waiting", why: "" });
  tellState(current);
  show(current);
  send([current]);
});
element("print").addEventListener("click", () => print());
element("forget").addEventListener("click", () => attempt(() => forget([current])));
element("forget-all").addEventListener("click", () =>
  attempt(() => forget(album.entries.filter(({ state }) => state === "answered" || state === "failed"))));
element("about-open").addEventListener("click", () => tellAbout(model));
element("key-forget").addEventListener("click", () => {
  forgetKey();
  forgetTab();
  location.reload();
});
whenAKeyIsNeeded(askForKey);
whenNotKept((sentence) => say("not-kept", sentence));
listenForPictures(take, (action) => attempt(() => busy.until(action())));
attempt(async () => {
  await readModel();
  await restore();
});
draw();
