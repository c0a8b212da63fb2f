// The picture with its explanation: one heatmap, the branches side by side, or the attention of a token.

import { COLORMAPS } from "./colormaps.js";
import * as controls from "./controls.js";
import { peakOf } from "./heatmap.js";
import { element, list, make, say } from "./page.js";
import { Pane } from "./pane.js";
import { attention, explain } from "./questions.js";
import { TokenCells, mapOf } from "./tokens.js";
import { branchName, captionOf, foreignOf, lookOf, provenanceOf, salienceOf, sentencesOf, short } from "./words.js";

const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const POINT = "Point at a cell, or move with the arrow keys, to see where its token looks.";
const CAPTIONS = { saliency: salienceOf, novelty: foreignOf }; // of other views than evidence
const LATE_MS = 300; // time after which the page announces that it is explaining
const MOST_CELLS = 200; // largest map that is also shown as a table
const [QUESTION, FRAME] = ["question", "frame"]; // pieces of work of which only one can be pending

export class Viewer {
  #busy;
  #entry = null;
  #address = null;
  #main = new Pane(element("stage"));
  #panels = new Map(); // branch → Pane
  #cells = new TokenCells(this.#main.seen, (cell) => this.#choose(cell));
  #cell = null;
  #shown = null; // {view, …} of the last answer
  #turn = 0;
  #asking = new AbortController(); // of the finer maps of this turn
  #frame = 0;
  #late = 0;
  #zoom = 0;

  /** `busy` tracks the work that is not drawn yet. */
  constructor(busy) {
    this.#busy = busy;
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

  /** The current question, in the form that lets the service draw the same overlay. */
  question() {
    const view = controls.view();
    if (view === "tokens") return { ...controls.looking(), query: this.#cell, head: controls.head() };
    if (view === "evidence") return controls.evidence();
    if (view === "saliency") return controls.saliency();
    if (view === "novelty") return controls.novelty();
    return { ...controls.evidence(null), compare: controls.compared().join(",") };
  }

  /** Show the picture of an entry, or none if it is null. The drawing of another entry is removed. */
  show(entry) {
    if (entry !== this.#entry) this.#forget();
    this.#entry = entry;
    if (entry === null) return;
    if (entry.state === "waiting" || entry.state === "looking") this.#busy.begin(QUESTION, entry);
    if (entry.state === "failed") this.#busy.end(QUESTION);
    if (entry.address === null || entry.address === this.#address) return;
    this.#address = entry.address;
    for (const pane of this.#panes) this.#showIn(pane);
  }

  #showIn(pane) {
    this.#busy.until(pane.show(this.#address), this.#entry);
  }

  #forget() {
    this.#nextTurn();
    this.#quieten();
    this.#busy.dismiss(this.#entry);
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#shown = null;
    this.#cell = null;
    this.#address = null;
    this.#cells.forget();
    for (const pane of this.#panes) pane.blank();
    this.#zoomTo(0);
    this.#arrange("evidence");
    for (const id of ["caption", "provenance"]) say(id, "");
    list("sentences", []);
    showValues(null);
  }

  get #panes() {
    return [this.#main, ...this.#panels.values()];
  }

  /** Begin another turn. Finer maps that were asked for before are given up: the service would compute long for nobody. */
  #nextTurn() {
    this.#asking.abort();
    this.#asking = new AbortController();
    return ++this.#turn;
  }

  /** After `ready` resolves, request what the controls ask for and draw it. Throws Problem. */
  async ask(ready = null) {
    const turn = this.#nextTurn();
    this.#busy.begin(QUESTION, this.#entry);
    clearTimeout(this.#late);
    this.#late = setTimeout(() => say("explaining", "Explaining…"), LATE_MS);
    try {
      await ready;
      if (turn !== this.#turn) return; // a newer question supersedes this one
      this.#main.look(this.#entry.answer.picture, controls.previewSide());
      const answered = await this.#answered(this.#entry, controls.view());
      if (turn !== this.#turn) return;
      this.#shown = answered;
      this.#describe();
      this.#draw(); // in the same task, so that words and colours always belong to one answer
    } catch (error) {
      if (turn === this.#turn) throw error;
    } finally {
      if (turn === this.#turn) this.#quieten();
    }
  }

  #quieten() {
    clearTimeout(this.#late);
    say("explaining", "");
    this.#busy.end(QUESTION);
  }

  async #answered(entry, view) {
    const signal = controls.isFine() ? this.#asking.signal : undefined;
    if (view === "tokens") return { view, whole: await attention(entry, controls.looking()) };
    if (view === "evidence") return { view, answer: await explain(entry, controls.evidence(), signal) };
    if (view === "saliency") return { view, answer: await explain(entry, controls.saliency()) };
    if (view === "novelty") return { view, answer: await explain(entry, controls.novelty(), signal) };
    const branches = controls.compared();
    const answers = await Promise.all(branches.map((branch) => explain(entry, controls.evidence(branch), signal)));
    return { view, answers: new Map(branches.map((branch, index) => [branch, answers[index]])) };
  }

  /** Redraw with the style of the controls at the next frame. */
  paint() {
    if (this.#shown === null) return;
    this.#busy.begin(FRAME, this.#entry);
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { view, answer, answers, whole } = this.#shown;
    const style = controls.style();
    if (answer) {
      this.#main.paint(answer.heatmap, answer.legend.high, style);
      drawBar(style, answer.legend.high, answer.units);
    } else if (view === "branches") {
      const all = [...answers.values()];
      const isOneScale = all.every(({ units }) => units === "logit");
      const part = partOfFinest(all.map(({ heatmap }) => heatmap.shape));
      const high = Math.max(...all.map(({ legend, heatmap }) => legend.high * part(heatmap.shape)));
      for (const [branch, one] of answers) {
        const scale = isOneScale && one.legend.high > 0 ? high / part(one.heatmap.shape) : one.legend.high;
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
    this.#busy.end(FRAME);
  }

  /** Update the texts, the cells and the panels. */
  #describe() {
    const { view, answer, answers, whole } = this.#shown;
    this.#arrange(view);
    if (view === "branches") this.#layPanels([...answers]);
    if (view === "tokens") {
      controls.offerHeads(whole.shape[0]);
      if (this.#cells.lay(whole.shape[1], whole.shape[2])) this.#cell = null;
      list("sentences", [POINT, ...whole.about.notes]);
    } else {
      const told = answer ?? answers.get("fusion");
      this.#say((CAPTIONS[view] ?? captionOf)(told, peakOf(told.heatmap)));
      list("sentences", sentencesOf(told));
    }
    const told = answer ?? answers?.get("fusion") ?? whole.about;
    say("provenance", provenanceOf(told.provenance));
    showValues(view === "tokens" ? null : told);
  }

  #arrange(view) {
    element("stage").hidden = view === "branches";
    element("panels").hidden = view !== "branches";
    element("zooming").hidden = view === "branches";
    this.#cells.hidden = view !== "tokens";
  }

  #layPanels(answers) {
    const branches = answers.map(([branch]) => branch);
    if (branches.join() !== [...this.#panels.keys()].join()) {
      this.#panels.clear();
      element("panels").replaceChildren(...branches.map((branch) => {
        const figure = make("figure");
        this.#panels.set(branch, new Pane(figure));
        figure.append(make("figcaption"));
        return figure;
      }));
    }
    for (const [index, [branch, answer]] of answers.entries()) {
      const pane = this.#panels.get(branch);
      pane.look(this.#entry.answer.picture, controls.previewSide());
      if (this.#address !== null) this.#showIn(pane);
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
    say("caption", sentence);
    this.#main.describe(`${this.#entry.name}. ${sentence}`);
  }

  #reveal() {
    for (const pane of this.#panes) pane.reveal(Number(element("reveal").value) / 100);
  }

  #zoomTo(zoom) {
    this.#zoom = Math.min(Math.max(zoom, 0), ZOOMS.length - 1);
    const times = ZOOMS[this.#zoom];
    this.#main.zoom(times);
    say("zoom", `${times}×`);
    element("zoom-out").disabled = this.#zoom === 0;
    element("zoom-in").disabled = this.#zoom === ZOOMS.length - 1;
  }
}

/** The part of a cell's value that an area of the size of a cell of the finest of these grids holds. */
function partOfFinest(shapes) {
  const finest = Math.max(...shapes.map(([rows]) => rows)) * Math.max(...shapes.map(([, columns]) => columns));
  return ([rows, columns]) => (rows * columns) / finest;
}

/** Draw the colour bar. `high` is null if each map has its own scale. */
function drawBar({ colormap }, high, units) {
  const canvas = element("bar-colours");
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let level = 0; level < 256; level++) {
    image.data.set([...COLORMAPS[colormap].subarray(3 * level, 3 * level + 3), 255], 4 * level);
  }
  context.putImageData(image, 0, 0);
  element("bar").classList.toggle("nothing", high === 0);
  say("bar-low", "0");
  say("bar-high", high === null ? "each map's own maximum" : short(high));
  say("bar-unit", units);
}

/** Show the map as a table, for readers who cannot see the colours. */
function showValues(answer) {
  const { values, shape: [rows, columns] } = answer?.heatmap ?? { values: [], shape: [0, 0] };
  element("values").hidden = !rows || rows * columns > MOST_CELLS;
  if (element("values").hidden) return;
  const header = (text, scope) => Object.assign(make("th", text), { scope });
  const numbers = Array.from({ length: columns }, (_, column) => header(`${column + 1}`, "col"));
  const lines = Array.from({ length: rows }, (_, row) => {
    const line = [...values.subarray(row * columns, (row + 1) * columns)];
    return make("tr", header(`${row + 1}`, "row"), ...line.map((value) => make("td", short(value))));
  });
  const caption = make("caption", `${answer.method}, in ${answer.units}`);
  const table = make("table", caption, make("tr", make("td"), ...numbers), ...lines);
  element("values").querySelector("div").replaceChildren(table);
}
