// Draws the model's answer: the class, the probabilities, and how the answer was decided and calibrated.

import { element, list, make, say } from "./page.js";
import { percent, ruleOf } from "./words.js";

const MOST_ROWS = 10;
let drawn = []; // the arguments of the last call, so that nothing is announced twice

/** Draw an answer. `model` is the current model, which may differ from the one that answered. */
export function drawAnswer(answer, model) {
  if (drawn[0] === answer && drawn[1] === model) return;
  drawn = [answer, model];
  say("label", answer.label);
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
  say("rule", isCurrent ? ruleOf(model) : `Answered by ${answer.model.name} ${answer.model.version}.`);
  list("picture-notes", answer.picture.notes);
  list("model-notes", isCurrent ? model.notes : []);
}
