// The picture and what is drawn over it: one map, the branches side by side, or what a token looks at.

import { COLORMAPS } from "./colormaps.js";
import * as controls from "./controls.js";
import { peakOf } from "./heatmap.js";
import { element, list } from "./page.js";
import { Pane } from "./pane.js";
import { attention, explain } from "./questions.js";
import { TokenCells, mapOf } from "./tokens.js";
import { branchName, captionOf, lookOf, provenanceOf, sentencesOf, short } from "./words.js";

const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const LATE_MS = 300; // from when on it is said that something takes long
const MOST_CELLS = 200; // of a table that anyone would read

export class Viewer {
  #entry = null;
  #address = null;
  #main = new Pane(element("stage"));
  #panels = new Map(); // branch → Pane
  #cells = new TokenCells(this.#main.seen, (cell) => this.#choose(cell));
  #cell = null;
  #shown = null; // {view, …} as it was last answered
  #turn = 0;
  #frame = 0;
  #late = 0;
  #zoom = 0;

  constructor() {
    element("reveal").addEventListener("input", () => this.#reveal());
    element("zoom-in").addEventListener("click", () => this.#zoomTo(this.#zoom + 1));
    element("zoom-out").addEventListener("click", () => this.#zoomTo(this.#zoom - 1));
    const stage = element("stage");
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.#zoomTo(this.#zoom - Math.sign(event.deltaY));
    }, { passive: false });
    stage.addEventListener("pointermove", ({ buttons, pointerType, movementX, movementY }) => {
      if (buttons === 1 && pointerType === "mouse") stage.scrollBy(-movementX, -movementY);
    });
    this.#zoomTo(0);
  }

  /** What is asked now, as the service would draw it: for its overlay, and for commands. */
  question(view = controls.view()) {
    if (view === "tokens") return { ...controls.looking(), query: this.#cell, head: controls.head() };
    if (view === "evidence") return controls.evidence();
    return { ...controls.evidence(null), compare: controls.compared().join(",") };
  }

  /** Show another picture, or null for none. */
  async show(entry) {
    if (entry !== this.#entry) {
      this.#entry = entry;
      this.#shown = null;
      this.#cell = null;
      this.#cells.forget();
      this.#address = null;
      this.#main.blank();
      this.#zoomTo(0);
      for (const text of ["caption", "provenance"]) element(text).textContent = "";
      element("sentences").replaceChildren();
    }
    if (entry?.answer) this.#look(this.#main);
    await this.showPicture();
  }

  /** Show the picture from where it is now. */
  async showPicture() {
    const { address } = this.#entry;
    if (address === null || address === this.#address) return;
    this.#address = address;
    await Promise.all([this.#main, ...this.#panels.values()].map((pane) => pane.show(address)));
  }

  #look(pane) {
    pane.look(this.#entry.answer.picture);
  }

  /** Ask what the controls ask, once `after` has come, and draw it. Throws Problem. */
  async ask(after = null) {
    const turn = ++this.#turn;
    const entry = this.#entry;
    const view = controls.view();
    element("view").setAttribute("aria-busy", "true");
    clearTimeout(this.#late);
    this.#late = setTimeout(() => { element("status").textContent = "Explaining…"; }, LATE_MS);
    try {
      await after;
      const answered = await this.#answered(entry, view);
      if (turn !== this.#turn) return; // something newer was asked
      this.#shown = answered;
      this.#describe();
      this.paint();
    } finally {
      if (turn === this.#turn) {
        clearTimeout(this.#late);
        element("status").textContent = "";
        element("view").removeAttribute("aria-busy");
      }
    }
  }

  async #answered(entry, view) {
    if (view === "tokens") return { view, whole: await attention(entry, controls.looking()) };
    if (view === "evidence") return { view, answer: await explain(entry, controls.evidence()) };
    const branches = controls.compared();
    const answers = await Promise.all(branches.map((branch) => explain(entry, controls.evidence(branch))));
    return { view, answers: new Map(branches.map((branch, index) => [branch, answers[index]])) };
  }

  /** Draw anew with the controls' style, at the next frame. */
  paint() {
    if (!this.#frame && this.#shown) {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#draw();
      });
    }
  }

  #draw() {
    const { view, answer, answers, whole } = this.#shown;
    const style = controls.style();
    if (view === "evidence") {
      this.#main.paint(answer.heatmap, answer.legend.high, style);
      drawBar(style, answer.legend.high, answer.units);
    } else if (view === "branches") {
      const all = [...answers.values()];
      const isOneScale = all.every(({ units }) => units === "logit");
      const high = Math.max(...all.map(({ legend }) => legend.high));
      for (const [branch, one] of answers) {
        const scale = isOneScale && one.legend.high > 0 ? high : one.legend.high;
        this.#panels.get(branch).paint(one.heatmap, scale, style);
      }
      drawBar(style, isOneScale ? high : null, all[0].units);
    } else {
      const map = mapOf(whole, controls.head(), this.#cell);
      const peak = peakOf(map);
      this.#main.paint(map, peak.value, style);
      drawBar(style, peak.value, whole.about.units);
      this.#say(lookOf(whole, this.#cell, map, peak));
    }
  }

  /** Words, and what lies over the picture. */
  #describe() {
    const { view, answer, answers, whole } = this.#shown;
    element("stage").hidden = view === "branches";
    element("panels").hidden = view !== "branches";
    this.#cells.hidden = view !== "tokens";
    if (view === "branches") this.#layPanels([...answers]);
    if (view === "tokens") {
      controls.offerHeads(whole.shape[0]);
      this.#cells.lay(whole.shape[1], whole.shape[2]);
      list("sentences", ["Point at a cell, or move with the arrow keys, to see where its token looks.", ...this.#notes()]);
    } else {
      const told = answer ?? answers.get("fusion");
      this.#say(captionOf(told, peakOf(told.heatmap)));
      list("sentences", sentencesOf(told));
    }
    const told = answer ?? answers?.get("fusion") ?? whole.about;
    element("provenance").textContent = provenanceOf(told.provenance);
    showValues(view === "tokens" ? null : told);
  }

  #notes() {
    const { about } = this.#shown.whole;
    return about.target === null
      ? ["Attention is of no class: it shows where the model looks, not what speaks for a class."]
      : [`Attention × gradient: where looking speaks for ${about.target}.`];
  }

  #layPanels(answers) {
    const branches = answers.map(([branch]) => branch);
    if (branches.join() !== [...this.#panels.keys()].join()) {
      this.#panels.clear();
      element("panels").replaceChildren(...branches.map((branch) => {
        const figure = document.createElement("figure");
        const caption = document.createElement("figcaption");
        this.#panels.set(branch, new Pane(figure));
        figure.append(caption);
        return figure;
      }));
    }
    for (const [index, [branch, answer]] of answers.entries()) {
      const pane = this.#panels.get(branch);
      this.#look(pane);
      pane.show(this.#address);
      pane.describe(captionOf(answer, peakOf(answer.heatmap)));
      const bare = answer.no_positive_evidence ? ": no positive evidence" : "";
      element("panels").children[index].querySelector("figcaption").textContent = branchName(branch) + bare;
    }
    this.#reveal();
  }

  #choose(cell) {
    if (cell === this.#cell) return;
    this.#cell = cell;
    this.paint();
  }

  #say(sentence) {
    element("caption").textContent = sentence;
    this.#main.describe(`${this.#entry.name}. ${sentence}`);
  }

  #reveal() {
    for (const pane of [this.#main, ...this.#panels.values()]) pane.reveal(Number(element("reveal").value) / 100);
  }

  #zoomTo(zoom) {
    this.#zoom = Math.min(Math.max(zoom, 0), ZOOMS.length - 1);
    const times = ZOOMS[this.#zoom];
    this.#main.zoom(times);
    element("zoom").textContent = `${times}×`;
    element("zoom-out").disabled = this.#zoom === 0;
    element("zoom-in").disabled = this.#zoom === ZOOMS.length - 1;
  }
}

/** The colour bar; `high` null where each map has a scale of its own. */
function drawBar({ colormap }, high, units) {
  const canvas = element("bar-colours");
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let level = 0; level < 256; level++) {
    image.data.set([...COLORMAPS[colormap].subarray(3 * level, 3 * level + 3), 255], 4 * level);
  }
  context.putImageData(image, 0, 0);
  element("bar").classList.toggle("nothing", high === 0);
  element("bar-low").textContent = "0";
  element("bar-high").textContent = high === null ? "each map's own maximum" : short(high);
  element("bar-unit").textContent = units;
}

/** The map as a table, for those who would rather read it. */
function showValues(answer) {
  const { values, shape: [rows, columns] } = answer?.heatmap ?? { values: [], shape: [0, 0] };
  element("values").hidden = !rows || rows * columns > MOST_CELLS;
  if (element("values").hidden) return;
  const table = document.createElement("table");
  table.createCaption().textContent = `${answer.method}, in ${answer.units}`;
  for (let row = 0; row < rows; row++) {
    const line = table.insertRow();
    for (let column = 0; column < columns; column++) line.insertCell().textContent = short(values[row * columns + column]);
  }
  element("values").querySelector("div").replaceChildren(table);
}
