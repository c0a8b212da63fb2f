// Sentences about the numbers.

const NAMES = {
  fusion: "both branches together",
  cnn: "the CNN branch",
  swin: "the Swin branch",
  vit: "the transformer branch",
};
const METHODS = {
  integrated: "Integrated gradients",
  gradcam: "Grad-CAM",
  hirescam: "HiResCAM",
  xgradcam: "XGrad-CAM",
  "gradcam++": "Grad-CAM++",
  layercam: "LayerCAM",
  ablationcam: "Ablation-CAM",
  eigencam: "Eigen-CAM",
};
const NOT_FOR_ALL = new Set(["turbo", "jet"]);

export const methodName = (method) => METHODS[method] ?? method;
export const branchName = (branch) => NAMES[branch] ?? branch;
export const colormapName = (name) => (NOT_FOR_ALL.has(name) ? `${name} (not for colour-blind readers)` : name);
export const percent = (part, digits = 0) => `${(100 * part).toFixed(digits)} %`;

const capital = (sentence) => sentence[0].toUpperCase() + sentence.slice(1);

const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, useGrouping: false });

/** A number with three significant digits. */
export const short = (value) => three.format(value);

const worth = (value) =>
  value < 0 ? `takes ${short(-value)} logits from the score` : `adds ${short(value)} logits to the score`;
const inUnits = (value, units) =>
  units === "unitless" ? short(value) : `${short(value)} ${units === "logit" ? "logits" : units}`;

/** A duration in minutes, rounded up. */
export function minutes(seconds) {
  const count = Math.ceil(seconds / 60);
  return count === 1 ? "1 minute" : `${count} minutes`;
}

/** What the classes of a prediction set are. */
export const setOf = ({ coverage }) =>
  `Possible classes: of such pictures of each class, ${percent(coverage)} have theirs among them`;

/** The decision rule and what it made of this answer, and whether the probabilities are calibrated. */
export function ruleOf({ decision, calibration }, { label, probabilities }) {
  const sentences = [];
  if (decision) sentences.push(`The model answers ${decision.positive} from a probability of ${percent(decision.threshold)} on.`);
  const [first] = probabilities;
  if (first.label !== label) {
    const own = probabilities.find((one) => one.label === label).probability;
    sentences.push(`Here ${first.label} is more probable (${percent(first.probability)}) than ${label} (${percent(own)}).`);
  }
  sentences.push(
    calibration.temperature === 1
      ? "Probabilities are not calibrated."
      : `Probabilities are calibrated. Fitted to: ${calibration.chosen_on}.`,
  );
  return sentences.join(" ");
}

/** The name of the branch or fusion. With a single branch, the fusion is that branch. */
const whereOf = ({ branch, branches }) => {
  const [first, ...others] = Object.keys(branches);
  return branchName(branch === "fusion" && others.length === 0 ? first : branch);
};

/** The caption of a heatmap: what it shows, and where it is strongest. */
export function captionOf(answer, peak) {
  const where = whereOf(answer);
  if (answer.no_positive_evidence) {
    const whom = answer.target ?? "anything";
    return `Nothing in the picture speaks for ${whom} in ${where}: no positive evidence, so nothing is coloured.`;
  }
  const rather = answer.against ? ` rather than ${answer.against}` : "";
  const what = answer.target === null ? "stands out" : `speaks for ${answer.target}${rather}`;
  const ofNoClass = answer.target === null ? ", of no class" : "";
  const cell = `row ${peak.row + 1}, column ${peak.column + 1} of ${answer.shape.join(" × ")} cells`;
  return `What ${what} in ${where}${ofNoClass}: strongest in ${cell} (${inUnits(peak.value, answer.units)}).`;
}

/** The caption of a map of token saliency: whose tokens matter most, without a sign. */
export function salienceOf(answer, peak) {
  const rather = answer.against ? ` rather than ${answer.against}` : "";
  const cell = `row ${peak.row + 1}, column ${peak.column + 1} of ${answer.shape.join(" × ")} tokens`;
  const most = `most in ${cell} (${inUnits(peak.value, answer.units)})`;
  return `How much the transformer's tokens matter for ${answer.target}${rather}, for it or against it: ${most}.`;
}

/** The caption of a map of foreign parts: where the picture is least like the training pictures, if anywhere. */
export function foreignOf(answer, peak) {
  if (answer.no_positive_evidence) return "No part of the picture is foreign to the model, so nothing is coloured.";
  const cell = `row ${peak.row + 1}, column ${peak.column + 1} of ${answer.shape.join(" × ")} cells`;
  return `What is foreign to the model, whatever the class: most in ${cell} (${inUnits(peak.value, answer.units)} above the limit).`;
}

/** The labels of similar cases, as a sentence. */
export function casesInWords({ cases, shares }) {
  const counted = shares.map(({ label, share }) => `${Math.round(share * cases.length)} ${label}`);
  return `Of the ${cases.length} training pictures that it resembles most: ${counted.join(", ")}.`;
}

/** The shares and Shapley values of the branches, the completeness of the map, warnings and notes. */
export function sentencesOf(answer) {
  const branches = Object.entries(answer.branches);
  const sentences = [];
  const shared = branches.filter(([, { share }]) => share !== null);
  if (shared.length > 1) {
    const [[most, { share }]] = shared.toSorted(([, a], [, b]) => b.share - a.share);
    sentences.push(`${percent(share)} of the evidence, for and against, comes from ${branchName(most)}.`);
  }
  for (const [branch, { shapley_value: value }] of branches) {
    if (value !== null) sentences.push(`${capital(branchName(branch))} ${worth(value)} (Shapley value).`);
  }
  if (answer.completeness_error !== null) {
    sentences.push(
      `${branches.length > 1 ? "Both branches' maps add" : "The map adds"} up to what the score gains over the training data's mean maps, ` +
      `${short(answer.score - answer.reference_score)} logits, to within ${short(Math.abs(answer.completeness_error))}.`,
    );
  }
  return [...sentences, ...answer.warnings.map((warning) => `Warning: ${warning}`), ...answer.notes];
}

/** The caption of an attention map: where a token looks, or all of them on average. */
export function lookOf({ about, shape: [, , queryColumns] }, cell, map, peak) {
  const who = cell === null
    ? "On average, the transformer's tokens look"
    : `The token in row ${Math.floor(cell / queryColumns) + 1}, column ${(cell % queryColumns) + 1} looks`;
  const where = about.method.startsWith("attention") ? "in the CNN's map" : "among the transformer's tokens";
  const ofClass = about.target && `speaks for ${about.target}${about.against ? ` rather than ${about.against}` : ""}`;
  if (!(peak.value > 0)) return `${who} nowhere that ${ofClass}.`;
  const part = percent(peak.value / map.values.reduce((sum, value) => sum + value, 0));
  const share = ofClass ? `${part} of what ${ofClass}` : `${part} of its attention`;
  return `${who} most at row ${peak.row + 1}, column ${peak.column + 1} ${where} (${share}).`;
}

/** The bundle, engine and version that made an answer. */
export function provenanceOf({ model, bundle_sha256: sha256, engine, fusionlens }) {
  return `Made by ${model} (${sha256.slice(0, 12)}) on ${engine}, FusionLens ${fusionlens}.`;
}
