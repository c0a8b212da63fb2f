// The page: pictures come in, go to the service, and what it says is shown.

import { Album } from "./album.js";
import { ask, hasKey, Problem, whenAKeyIsNeeded } from "./api.js";
import { askForKey, tellAbout } from "./dialogs.js";
import * as controls from "./controls.js";
import { curlOf, fileOf, nameOf, pythonOf, recordOf, save } from "./downloads.js";
import { listenForPictures } from "./intake.js";
import { element, list, painted } from "./page.js";
import { drawStrip } from "./strip.js";
import { Viewer } from "./viewer.js";
import { percent, ruleOf } from "./words.js";

const album = new Album();
const viewer = new Viewer();
let model = null;
let current = null;
const waiting = []; // pictures are sent one after the other, in the order in which they were given
let isSending = false;
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });

/** Do what may fail, and say why it did. */
async function attempt(action) {
  element("problem").textContent = "";
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    element("problem").textContent = error.message;
  }
}

async function readModel() {
  model = await (await ask("model")).json();
  element("model-name").textContent = `${model.name} ${model.version}: ${model.classes.join(", ")}`;
  element("purpose").textContent =
    `See what the model answers, and what it saw. A picture and its answer stay with this service for at most ` +
    `${Math.round(model.limits.store_ttl_s / 60)} minutes, and you can have them forgotten at once.`;
  element("about-open").hidden = false;
  controls.offer(model);
}

function take(files) {
  const entries = album.add(files);
  send(entries); // before anything is drawn, which can be done while the service works
  select(entries[0]);
}

async function send(entries) {
  waiting.push(...entries);
  if (isSending) return;
  isSending = true;
  while (waiting.length) await predict(waiting.shift());
  isSending = false;
}

async function predict(entry) {
  const body = new FormData();
  body.append("file", entry.file, entry.name);
  try {
    const answered = ask("predict", { method: "POST", body });
    album.update(entry, { state: "looking", why: "" });
    const answer = await (await answered).json();
    if (answer.model.sha256 !== model?.sha256) await readModel(); // another model answers by now
    const until = answer.stored ? Date.now() + model.limits.store_ttl_s * 1000 : null;
    album.update(entry, { state: "answered", answer, until });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    album.update(entry, { state: "failed", why: error.message });
  }
  if (entry === current) await show(entry);
}

/** Show an entry of the strip, or with null nothing. */
async function select(entry) {
  current = entry;
  draw();
  if (entry !== null) await show(entry);
}

async function show(entry) {
  showPicture(entry);
  if (!entry.answer) return;
  controls.startWith(entry.answer.label);
  await attempt(async () => {
    // The answer is painted first: explaining takes every core that the service has.
    const after = painted();
    await Promise.all([viewer.ask(after), after.then(() => showKeptPicture(entry))]);
  });
}

/** The service's preview is what the model saw: upright, and the first frame. */
async function showKeptPicture(entry) {
  if (!entry.answer.stored || entry.isKept) return;
  const preview = await (await ask(`predictions/${entry.answer.prediction_id}/picture`)).blob();
  if (entry.address) URL.revokeObjectURL(entry.address);
  album.update(entry, { address: URL.createObjectURL(preview), isKept: true });
  if (entry === current) showPicture(entry);
}

async function showPicture(entry) {
  try {
    await viewer.show(entry);
  } catch (error) {
    // A picture that this browser cannot show, such as a TIFF: the service's preview comes with the answer.
    if (!(error instanceof DOMException && error.name === "EncodingError")) throw error;
  }
}

function draw() {
  element("history").hidden = album.entries.length === 0;
  drawStrip(element("strip"), album.entries, current, select);
  document.body.classList.toggle("started", album.entries.length > 0 || current !== null);
  element("result").hidden = current === null;
  element("again").hidden = true;
  if (current === null) return;
  const { state, answer, why, name, until } = current;
  element("result").dataset.state = state;
  element("status").textContent = { waiting: "Waiting for its turn…", looking: "Looking at the picture…" }[state] ?? "";
  if (state === "failed") element("problem").textContent = why;
  element("again").hidden = state !== "failed";
  element("picture-name").textContent = name;
  if (!answer) return;
  drawAnswer(answer);
  element("kept-until").textContent = answer.stored
    ? `Kept until ${clock.format(until)}.`
    : "Not kept by the service.";
  element("forget").disabled = !answer.stored;
}

function drawAnswer(answer) {
  element("label").textContent = answer.label;
  element("probabilities").replaceChildren(...answer.probabilities.map(({ label, probability }) => {
    const row = document.createElement("li");
    const meter = document.createElement("meter");
    meter.value = probability;
    meter.ariaLabel = label;
    row.classList.toggle("answered", label === answer.label);
    row.append(label, meter, percent(probability, 1));
    return row;
  }));
  element("rule").textContent = model ? ruleOf(model) : "";
  list("picture-notes", answer.picture.notes);
  list("model-notes", model?.notes ?? []);
}

async function forget(entries) {
  for (const { id } of entries) {
    try {
      await ask(`predictions/${id}`, { method: "DELETE" });
    } catch (error) {
      if (error.status !== 404 && error.status !== 410) throw error; // gone already
    }
  }
  for (const entry of entries) album.remove(entry);
}

const question = () => ({ ...viewer.question(), ...controls.styleParameters() });

async function saveAs(format) {
  // The raw map and the record of a comparison are the fusion's.
  const asked = controls.view() === "branches" && format !== "png" ? controls.evidence("fusion") : viewer.question();
  const content = format === "png" ? await fileOf(current, question(), "png")
    : format === "npy" ? await fileOf(current, asked, "npy")
      : await recordOf(current, asked);
  save(content, nameOf(current, asked, format));
}

async function copy(language) {
  const text = (language === "curl" ? curlOf : pythonOf)(current, question(), hasKey());
  const snippet = element("snippet");
  snippet.value = text;
  snippet.hidden = false;
  snippet.select();
  try {
    await navigator.clipboard.writeText(text);
    element("status").textContent = "Copied.";
  } catch {
    element("status").textContent = "The browser does not let this page copy: the command is selected below.";
  }
}

album.addEventListener("change", ({ detail: { expired } }) => {
  if (expired.includes(current)) {
    element("problem").textContent =
      "This prediction has expired, and the service has forgotten it. To ask more about the picture, send it again.";
  } else if (current !== null && !album.entries.includes(current)) {
    select(null);
    element("status").textContent = "Forgotten.";
    return;
  }
  draw();
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
  element("problem").textContent = "";
  send([current]);
});
element("print").addEventListener("click", () => print());
element("forget").addEventListener("click", () => attempt(() => forget([current])));
element("forget-all").addEventListener("click", () => attempt(() => forget(album.entries.filter(({ answer }) => answer))));
element("about-open").addEventListener("click", () => tellAbout(model));
whenAKeyIsNeeded(askForKey);
listenForPictures(take);
attempt(readModel);
draw();
