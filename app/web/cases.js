// Draws the training pictures that a picture resembles: their labels, and thumbnails where the model's card allows them.

import { element, list, make, say } from "./page.js";
import { casesInWords, short } from "./words.js";

/** Draw the answer of `/similar`, or nothing if it is null. */
export function drawCases(answer) {
  element("similar").hidden = answer === null;
  if (answer === null) return;
  say("shares", casesInWords(answer));
  element("cases").replaceChildren(...answer.cases.map((one) => {
    const name = make("code", one.id);
    const row = make("li", make("strong", one.label), ` ${short(one.similarity)} `, name);
    if (one.group !== null) row.append(` (${one.group})`);
    if (one.origin === "site") row.append(", of this site");
    if (one.thumbnail !== null) {
      row.prepend(Object.assign(new Image(), { src: one.thumbnail, alt: `A similar case: ${one.label}` }));
    }
    return row;
  }));
  list("cases-notes", answer.notes);
}
