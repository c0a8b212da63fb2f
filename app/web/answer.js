// Draws the model's answer: whether it may be relied on, the class, the probabilities, and how it was decided.

import { element, list, make, say } from "./page.js";
import { percent, ruleOf, setOf } from "./words.js";

const MOST_ROWS = 10;
let drawn = []; // the arguments of the last call, so that nothing is announced twice

/** Draw an answer. `model` is the current model, which may differ from the one that answered. */
export function drawAnswer(answer, model) {
  if (drawn[0] === answer && drawn[1] === model) return;
  drawn = [answer, model];
  const trust = answer.trust ?? null; // answers from before an upgrade have none
  element("result").dataset.decision = trust?.decision ?? "unknown";
  say("verdict", trust?.decision === "refer" ? "Refer to a person:" : "");
  list("reasons", trust ? trust.reasons.map(({ detail }) => detail) : []);
  say("label", answer.label);
  drawSet(trust);
  const [shown, others] = [answer.probabilities.slice(0, MOST_ROWS), answer.probabilities.slice(MOST_ROWS)];
  if (others.length) {
    const together = others.reduce((sum, { probability }) => sum + probability, 0);
    shown.push({ label: `${others.length} others`, probability: together });
  }
  element("probabilities").replaceChildren(...shown.map(({ label, probability }) => {
    const meter = document.createElement("meter");
    meter.value = probability;
    meter.ariaLabel = label;
    const row = make("li", label, meter, percent(probability, 1));
    row.classList.toggle("answered", label === answer.label);
    return row;
  }));
  const isCurrent = answer.model.sha256 === model?.sha256;
  say("rule", isCurrent ? ruleOf(model, answer) : `Answered by ${answer.model.name} ${answer.model.version}.`);
  list("picture-notes", answer.picture.notes);
  list("model-notes", isCurrent ? model.notes : []);
}

/** Draw the classes that are possible, each as one: two are two. */
function drawSet(trust) {
  const set = element("possible");
  set.hidden = trust === null;
  if (trust === null) return;
  set.ariaLabel = set.title = setOf(trust);
  const classes = trust.prediction_set.slice(0, MOST_ROWS);
  if (trust.prediction_set.length > MOST_ROWS) classes.push(`${trust.prediction_set.length - MOST_ROWS} others`);
  set.replaceChildren(...(classes.length ? classes : ["no class"]).map((name) => make("li", name)));
}
