// The transformer's tokens as cells over the picture. The hovered or focused cell shows where its token looks.

import { make } from "./page.js";

/** The map of one query token and one head. Null for `cell` or `head` takes the mean over all. */
export function mapOf({ values, shape: [heads, queryRows, queryColumns, rows, columns] }, head, cell) {
  const queries = queryRows * queryColumns;
  const size = rows * columns;
  const map = new Float32Array(size);
  const chosenHeads = head === null ? [...Array(heads).keys()] : [head];
  const chosenQueries = cell === null ? [...Array(queries).keys()] : [cell];
  for (const one of chosenHeads) {
    for (const query of chosenQueries) {
      const from = (one * queries + query) * size;
      for (let key = 0; key < size; key++) map[key] += values[from + key];
    }
  }
  const count = chosenHeads.length * chosenQueries.length;
  return { values: map.map((value) => value / count), shape: [rows, columns] };
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class TokenCells {
  #grid = make("div");
  #cells = [];
  #columns = 0;
  #kept = null; // the clicked or focused cell, shown while no cell is hovered

  /** `choose(cell)` is called with the selected token, or with null for the mean of all. */
  constructor(element, choose) {
    this.#grid.className = "tokens";
    this.#grid.hidden = true;
    this.#grid.setAttribute("role", "grid");
    this.#grid.setAttribute("aria-label", "The transformer's tokens. Arrow keys move, Escape shows the mean of all.");
    element.append(this.#grid);
    const over = (event) => event.target.closest("[data-cell]");
    this.#grid.addEventListener("pointerover", (event) => over(event) && choose(Number(over(event).dataset.cell)));
    this.#grid.addEventListener("pointerleave", () => choose(this.#kept));
    this.#grid.addEventListener("focusin", (event) => {
      this.#keep(Number(event.target.dataset.cell));
      choose(this.#kept);
    });
    this.#grid.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        this.forget();
        choose(null);
      } else if (event.key in STEPS) {
        event.preventDefault();
        this.#move(...STEPS[event.key]);
      }
    });
  }

  /** Lay out cells for a grid of tokens. Returns false, without a change, if they are laid out already. */
  lay(rows, columns) {
    if (this.#cells.length === rows * columns && this.#columns === columns) return false;
    this.#columns = columns;
    this.#grid.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    this.#cells = [];
    const lines = Array.from({ length: rows }, (_, row) => {
      const line = make("div");
      line.setAttribute("role", "row");
      for (let column = 0; column < columns; column++) {
        const cell = make("div");
        cell.setAttribute("role", "gridcell");
        cell.setAttribute("aria-label", `Token in row ${row + 1}, column ${column + 1}`);
        cell.dataset.cell = this.#cells.length;
        cell.tabIndex = -1;
        this.#cells.push(cell);
        line.append(cell);
      }
      return line;
    });
    this.#grid.replaceChildren(...lines);
    this.forget();
    return true;
  }

  /** Show or hide the cells. */
  set hidden(hidden) {
    this.#grid.hidden = hidden;
  }

  /** Deselect the token. */
  forget() {
    this.#keep(null);
  }

  get #rows() {
    return this.#cells.length / this.#columns;
  }

  #keep(cell) {
    for (const one of this.#cells) {
      one.removeAttribute("aria-selected");
      one.tabIndex = -1;
    }
    this.#kept = cell;
    if (cell !== null) this.#cells[cell].setAttribute("aria-selected", "true");
    const entrance = cell ?? Math.floor(this.#rows / 2) * this.#columns + Math.floor(this.#columns / 2);
    if (this.#cells[entrance]) this.#cells[entrance].tabIndex = 0;
  }

  #move(down, right) {
    const at = this.#cells.indexOf(document.activeElement);
    const row = Math.min(Math.max(Math.floor(at / this.#columns) + down, 0), this.#rows - 1);
    const column = Math.min(Math.max((at % this.#columns) + right, 0), this.#columns - 1);
    this.#cells[row * this.#columns + column].focus();
  }
}
