// The controls: the options that the model offers, and the query parameters that they stand for.

import { element } from "./page.js";
import { colormapName, methodName } from "./words.js";

const value = (id) => element(id).value;
const part = (id) => Number(value(id)) / 100;

const BRANCHES = { fusion: "Both together", cnn: "CNN", swin: "Swin", vit: "Transformer" };
let model = null;

/** Fill the controls with the options of a model, from its card (`GET /model`). */
export function offer(card) {
  model = card;
  fill("target", card.classes.map((name) => [name, name]));
  fill("against", [["", "no other"], ...card.classes.map((name) => [name, name])]);
  fill("branch", card.branches.map((branch) => [branch, BRANCHES[branch]]));
  fill("method", card.methods.map((method) => [method, methodName(method)]));
  fill("colormap", card.colormaps.map((name) => [name, colormapName(name)]));
  show("branches", hasSeveral());
  const transformer = BRANCHES[card.branches.find((branch) => branch === "swin" || branch === "vit")];
  fill("layer", card.layers.map((layer) => [layer, `${transformer} looks at ${layer === "cross" ? "CNN" : "itself"}`]));
  show("tokens", card.layers.length > 0);
  fill("token-stage", card.token_stages.toReversed().map((rows) => [rows, `${rows} rows of tokens`]));
  show("saliency", card.token_stages.length > 0);
  show("novelty", card.novelty);
  agree();
}

/** Select the predicted class as the target. */
export function startWith(label) {
  element("target").value = label;
  element("against").value = "";
  agree();
}

const hasSeveral = () => model.branches.length > 2; // the fusion and two more

/** Offer this number of attention heads. */
export function offerHeads(count) {
  if (element("head").length === count + 1) return;
  fill("head", [["", "mean of all"], ...Array.from({ length: count }, (_, head) => [head, `head ${head}`])]);
}

/** Fill a list of options. The selected option stays selected if it is still offered. */
function fill(id, options) {
  const before = value(id);
  element(id).replaceChildren(...options.map(([content, label]) => new Option(label, content)));
  if (options.some(([content]) => String(content) === before)) element(id).value = before;
}

function show(view, offered) {
  const radio = document.querySelector(`[name=view][value=${view}]`);
  radio.closest("label").hidden = !offered;
  if (!offered && radio.checked) document.querySelector("[name=view][value=evidence]").checked = true;
}

/** Hide or disable the controls that have no meaning in the current view. */
export function agree() {
  const now = view();
  for (const control of element("controls").querySelectorAll("label[class*=for-]")) {
    const branchless = control.contains(element("branch")) && !hasSeveral();
    control.hidden = branchless || !control.classList.contains(`for-${now}`);
  }
  const ofClass = now === "saliency" || (now === "tokens" ? isOfClass() : !isAgnostic());
  element("of-class").disabled = value("layer") !== "cross";
  element("target").disabled = !ofClass;
  element("against").disabled = !ofClass;
  for (const option of element("against").options) option.disabled = option.value === value("target");
  if (value("against") === value("target")) element("against").value = "";
  for (const output of element("controls").querySelectorAll("output")) {
    const set = Number(value(output.htmlFor[0]));
    const text = set === 0 && output.htmlFor[0] !== "opacity" ? "off" : `${set} %`;
    if (output.textContent !== text) output.textContent = text;
  }
}

const isAgnostic = () => model.class_agnostic_methods.includes(value("method"));
const isOfClass = () => value("layer") === "cross" && element("of-class").checked;

/** The longest side of the service's previews, in px. */
export const previewSide = () => model.limits.preview_side_px;

/** The selected view: evidence, branches, tokens, saliency or novelty. */
export const view = () => document.querySelector("[name=view]:checked").value;

/** The branches to compare: the value of `compare`. */
export const compared = () => [...model.branches.filter((branch) => branch !== "fusion"), "fusion"];

/** The selected attention head, or null for the mean over all. */
export const head = () => (value("head") === "" ? null : Number(value("head")));

/** Whether a finer map is asked for. */
export const isFine = () => element("detail").checked;

/** The question for `/explain` about a branch. */
export function evidence(branch = value("branch")) {
  const agnostic = isAgnostic();
  return {
    route: "explain",
    branch,
    method: value("method"),
    target: agnostic ? null : value("target"),
    against: agnostic ? null : value("against"),
    detail: isFine() ? "fine" : null,
  };
}

/** The question for `/attention`. */
export function looking() {
  const ofClass = isOfClass();
  return {
    route: "attention",
    layer: value("layer"),
    method: ofClass ? "gradient" : null,
    target: ofClass ? value("target") : null,
    against: ofClass ? value("against") : null,
  };
}

/** The question for `/tokens`. */
export function saliency() {
  return { route: "tokens", token_stage: value("token-stage"), target: value("target"), against: value("against") };
}

/** The question for `/novelty`. */
export function novelty() {
  return { route: "novelty", detail: isFine() ? "fine" : null };
}

/** The style in which the page draws maps. */
export function style() {
  const [opacity, threshold, contour] = ["opacity", "threshold", "contour"].map(part);
  return { colormap: value("colormap"), opacity, threshold, contour };
}

/** The same style as query parameters, so that the service's overlay looks the same. */
export function styleParameters() {
  const { colormap, opacity, threshold, contour } = style();
  return { colormap, alpha_max: opacity, threshold: threshold || null, contour: contour || null };
}
