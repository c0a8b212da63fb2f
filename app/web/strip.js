// The strip of pictures: one button for each entry, with its answer or its state.

import { make } from "./page.js";
import { percent } from "./words.js";

const STATES = { waiting: "waiting", looking: "looking…", failed: "no answer" };
const items = new WeakMap(); // entry → its list item, which is reused so that it keeps the focus

/** Draw the strip into a list. `choose(entry)` is called when an entry is clicked. */
export function drawStrip(strip, entries, current, choose) {
  const drawn = entries.map((entry) => {
    if (!items.has(entry)) items.set(entry, itemOf(entry, choose));
    return items.get(entry);
  });
  for (const item of [...strip.children]) if (!drawn.includes(item)) item.remove();
  for (const [index, item] of drawn.entries()) {
    if (strip.children[index] !== item) strip.insertBefore(item, strip.children[index] ?? null);
    update(item.firstChild, entries[index], entries[index] === current);
  }
}

function itemOf(entry, choose) {
  const picture = new Image();
  picture.alt = "";
  picture.draggable = false; // a picture that is dropped on the page would be sent again
  picture.addEventListener("error", () => { picture.hidden = true; }); // such as TIFF, until the preview arrives
  picture.addEventListener("load", () => { picture.hidden = false; });
  const name = make("span", entry.name);
  name.className = "name";
  const button = make("button", picture, make("span"), name);
  button.type = "button";
  button.addEventListener("click", () => choose(entry));
  return make("li", button);
}

function update(button, { state, address, answer }, isCurrent) {
  const [picture, said] = button.children;
  button.dataset.state = state;
  if (isCurrent) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  picture.hidden ||= address === null;
  if (address !== null && picture.src !== address) picture.src = address;
  const doubt = answer?.trust?.decision === "refer" ? ", refer" : "";
  said.textContent = answer ? `${answer.label} ${percent(probabilityOf(answer))}${doubt}` : STATES[state];
}

const probabilityOf = ({ label, probabilities }) => probabilities.find((one) => one.label === label).probability;
