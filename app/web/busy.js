// What the user has asked for and does not see yet.
//
// An element is busy, as screen readers know it, from what the user does until all of it is drawn or has failed. It says
// so in the same task as what it tells of: nobody can take what is still on its way for what was asked.

export class Busy {
  #element;
  #unfinished = new Map(); // what has begun → the entry that it is about, or null

  /** Speaks for an element of the page. */
  constructor(element) {
    this.#element = element;
  }

  /** Something has begun that is about an entry, or with null about none. */
  begin(what, entry) {
    this.#unfinished.set(what, entry);
    this.#element.setAttribute("aria-busy", "true");
  }

  /** It is drawn, or has failed. */
  end(what) {
    this.#unfinished.delete(what);
    if (this.#unfinished.size === 0) this.#element.removeAttribute("aria-busy");
  }

  /** Be busy until `work` is over, well or not. What it gives, or throws. */
  async until(work, entry = null) {
    this.begin(work, entry);
    try {
      return await work;
    } finally {
      this.end(work);
    }
  }

  /** Wait no more for what has begun about an entry. */
  dismiss(entry) {
    for (const [what, about] of this.#unfinished) if (entry !== null && about === entry) this.end(what);
  }
}
