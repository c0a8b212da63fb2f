// The strip of pictures: one button for each, with its answer or what has become of it.

import { percent } from "./words.js";

const STATES = { waiting: "waiting", looking: "looking…", failed: "no answer" };

/** Draw the strip into a list. `choose(entry)` hears which one was clicked. */
export function drawStrip(list, entries, current, choose) {
  list.replaceChildren(...entries.map((entry) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.state = entry.state;
    if (entry === current) button.setAttribute("aria-current", "true");
    if (entry.address) {
      const picture = document.createElement("img");
      picture.src = entry.address;
      picture.alt = "";
      picture.addEventListener("error", () => picture.remove()); // such as TIFF, until the service's preview is there
      button.append(picture);
    }
    const [first] = entry.answer?.probabilities ?? [];
    const said = document.createElement("span");
    said.textContent = entry.answer
      ? `${entry.answer.label} ${percent(entry.answer.probabilities.find(({ label }) => label === entry.answer.label).probability)}`
      : STATES[entry.state];
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = entry.name;
    button.append(said, name);
    button.addEventListener("click", () => choose(entry));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}
