// What the controls ask for, and what they can offer with this model.

import { element } from "./page.js";
import { colormapName, methodName } from "./words.js";

const value = (id) => element(id).value;
const part = (id) => Number(value(id)) / 100;

const BRANCHES = { fusion: "Both together", cnn: "CNN", swin: "Swin" };
const LAYERS = {
  cross: { label: "Swin looks at CNN", isIn: (card) => card.architecture.fusion === "cross_attention" },
  swin: { label: "Swin looks at Swin", isIn: (card) => card.token_stages.length > 0 },
};
let model = null;

/** Offer what a model can be asked for, as `GET /model` says. */
export function offer(card) {
  model = card;
  fill("target", card.classes.map((name) => [name, name]));
  fill("against", [["", "no other"], ...card.classes.map((name) => [name, name])]);
  fill("branch", card.branches.map((branch) => [branch, BRANCHES[branch]]));
  fill("method", card.methods.map((method) => [method, methodName(method)]));
  fill("colormap", card.colormaps.map((name) => [name, colormapName(name)]));
  show("branches", hasSeveral());
  const layers = Object.keys(LAYERS).filter((layer) => LAYERS[layer].isIn(card));
  fill("layer", layers.map((layer) => [layer, LAYERS[layer].label]));
  show("tokens", layers.length > 0);
  agree();
}

/** Start with the class that was answered. */
export function startWith(label) {
  element("target").value = label;
  element("against").value = "";
  agree();
}

const hasSeveral = () => model.branches.length > 2; // the fusion and two more

/** Offer the heads that an attention has. */
export function offerHeads(count) {
  if (element("head").length === count + 1) return;
  fill("head", [["", "mean of all"], ...Array.from({ length: count }, (_, head) => [head, `head ${head}`])]);
}

/** Fill a list; what was chosen stays so where it is still offered. */
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

/** Make the controls agree with each other: what has no meaning now cannot be set. */
export function agree() {
  const now = view();
  for (const control of element("controls").querySelectorAll("label[class*=for-]")) {
    const branchless = control.contains(element("branch")) && !hasSeveral();
    control.hidden = branchless || !control.classList.contains(`for-${now}`);
  }
  const ofClass = now === "tokens" ? isOfClass() : !model.class_agnostic_methods.includes(value("method"));
  element("of-class").disabled = value("layer") === "swin";
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

const isOfClass = () => value("layer") === "cross" && element("of-class").checked;

/** The longest side of the pictures that the service draws. */
export const previewSide = () => model.limits.preview_side_px;

/** Which view is chosen: evidence, branches or tokens. */
export const view = () => document.querySelector("[name=view]:checked").value;

/** The branches that are compared, as in `compare=`. */
export const compared = () => [...model.branches.filter((branch) => branch !== "fusion"), "fusion"];

/** The attention head that is chosen, or null for the mean of all. */
export const head = () => (value("head") === "" ? null : Number(value("head")));

/** What is asked of `/explain` for a branch. */
export function evidence(branch = value("branch")) {
  const agnostic = model.class_agnostic_methods.includes(value("method"));
  return {
    route: "explain",
    branch,
    method: value("method"),
    target: agnostic ? null : value("target"),
    against: agnostic ? null : value("against"),
    detail: element("detail").checked ? "fine" : null,
  };
}

/** What is asked of `/attention`. */
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

/** How maps are drawn here. */
export function style() {
  const [opacity, threshold, contour] = ["opacity", "threshold", "contour"].map(part);
  return { colormap: value("colormap"), opacity, threshold, contour };
}

/** How the service is to draw them, so that its overlay looks the same. */
export function styleParameters() {
  const { colormap, opacity, threshold, contour } = style();
  return { colormap, alpha_max: opacity, threshold: threshold || null, contour: contour || null };
}
