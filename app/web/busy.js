// Tracks the work that the user has started and that is not drawn yet.
//
// An element has aria-busy from the user's action until all of its results are drawn or have failed. The attribute is
// set in the same task as the action, so that no reader takes an outdated result for the new one.

export class Busy {
  #element;
  #unfinished = new Map(); // piece of work → the entry that it belongs to, or null

  /** Sets aria-busy on an element of the page. */
  constructor(element) {
    this.#element = element;
  }

  /** A piece of work has begun. It belongs to an entry, or to none if that is null. */
  begin(what, entry) {
    this.#unfinished.set(what, entry);
    this.#element.setAttribute("aria-busy", "true");
  }

  /** A piece of work is drawn, or has failed. */
  end(what) {
    this.#unfinished.delete(what);
    if (this.#unfinished.size === 0) this.#element.removeAttribute("aria-busy");
  }

  /** Be busy until the promise `work` settles. Returns its value, or throws its error. */
  async until(work, entry = null) {
    this.begin(work, entry);
    try {
      return await work;
    } finally {
      this.end(work);
    }
  }

  /** Stop waiting for all work that belongs to an entry. */
  dismiss(entry) {
    for (const [what, about] of this.#unfinished) if (entry !== null && about === entry) this.end(what);
  }
}
