// The pictures of this browser: those being sent, and those that the service still keeps.
//
// An entry is {id, name, state, address, file, answer, until, why}: id is the prediction's, null until there is one;
// state is waiting, looking, answered or failed; address is of a picture that the browser can show, or null; until is in
// ms of this browser's clock. Kept between visits, and shared by tabs, is only what the service answered: pictures stay
// with the service, and expire there.

const STORED = "fusionlens.predictions";

export class Album extends EventTarget {
  #entries = [];
  #timer = 0;

  constructor() {
    super();
    addEventListener("storage", ({ key }) => key === STORED && this.#read());
    this.#read();
  }

  /** All entries, the newest first. */
  get entries() {
    return this.#entries;
  }

  /** Pictures that are about to be sent. */
  add(files) {
    const unanswered = { id: null, state: "waiting", answer: null, until: null, why: "" };
    const entries = files.map((file) => ({ ...unanswered, name: file.name, file, address: URL.createObjectURL(file) }));
    this.#entries.unshift(...entries.toReversed());
    this.#changed();
    return entries;
  }

  /** What has become of an entry. */
  update(entry, fields) {
    Object.assign(entry, fields);
    if (entry.answer?.stored) {
      entry.id = entry.answer.prediction_id;
      entry.file = null; // the service has what it needs
      this.#write();
    }
    this.#changed();
  }

  /** Drop an entry, here and in other tabs. */
  remove(entry) {
    this.#drop([entry]);
    this.#write();
    this.#changed();
  }

  #drop(gone) {
    for (const entry of gone) if (entry.address) URL.revokeObjectURL(entry.address);
    this.#entries = this.#entries.filter((entry) => !gone.includes(entry));
  }

  #write() {
    const kept = this.#entries.filter(({ answer }) => answer?.stored);
    localStorage.setItem(STORED, JSON.stringify(kept.map(({ id, name, answer, until }) => ({ id, name, answer, until }))));
  }

  #read() {
    const stored = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    const here = new Set(stored.map(({ id }) => id));
    this.#drop(this.#entries.filter(({ id, answer }) => answer?.stored && !here.has(id)));
    for (const one of stored.toReversed()) {
      if (this.#entries.some(({ id }) => id === one.id)) continue;
      this.#entries.unshift({ ...one, state: "answered", address: null, file: null, why: "" });
    }
    this.#changed();
  }

  #changed() {
    const now = Date.now();
    const expired = this.#entries.filter(({ until }) => until !== null && until <= now);
    if (expired.length) {
      this.#drop(expired);
      this.#write();
    }
    clearTimeout(this.#timer);
    const next = Math.min(...this.#entries.map(({ until }) => until ?? Infinity));
    if (next < Infinity) this.#timer = setTimeout(() => this.#changed(), Math.min(next - now + 20, 2 ** 31 - 1));
    this.dispatchEvent(new CustomEvent("change", { detail: { expired } }));
  }
}
