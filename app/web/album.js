// The pictures of this browser: those being sent, and those whose prediction the service still stores.
//
// An entry is {id, name, state, address, file, answer, at, until, why}. `id` is the prediction's id, or null before the
// answer. `state` is waiting, looking, answered, failed or expired. `address` is that of a picture which the browser
// can show, or null. `at` is when the answer came, and `until` when it expires, in ms of this browser's clock. Only the
// answers are stored in the browser, for later visits and other tabs; the pictures stay with the service. If the
// service requires a key, the answers are stored for this tab alone.

import { hasKey } from "./api.js";
import { ofBrowser, ofTab } from "./storage.js";

const STORED = "fusionlens.predictions";

export class Album extends EventTarget {
  #entries = [];
  #timer = 0;

  constructor() {
    super();
    addEventListener("storage", ({ key, storageArea }) => key === STORED && area().is(storageArea) && this.#read());
    for (const one of [ofBrowser, ofTab]) if (one.get(STORED) !== null) store((records) => records, one);
    this.#read();
  }

  /** All entries, the newest first. */
  get entries() {
    return this.#entries;
  }

  /** Add files that are about to be sent. Returns their entries. */
  add(files) {
    const unanswered = { id: null, state: "waiting", answer: null, at: null, until: null, why: "" };
    const entries = files.map((file) => ({ ...unanswered, name: file.name, file, address: URL.createObjectURL(file) }));
    this.#entries.unshift(...entries.toReversed());
    this.#changed();
    return entries;
  }

  /** Set fields of an entry. An answer is stored in the browser. */
  update(entry, fields) {
    Object.assign(entry, fields);
    if (fields.answer?.stored) {
      entry.id = entry.answer.prediction_id;
      entry.file = null; // the service stores the prediction, so the file is no longer needed
      const { id, name, answer, at, until } = entry;
      store((records) => [{ id, name, answer, at, until }, ...records]);
    }
    this.#changed();
  }

  /** Replace the picture of an entry, unless the entry was removed. */
  picture(entry, content) {
    if (!this.#entries.includes(entry)) return;
    if (entry.address) URL.revokeObjectURL(entry.address);
    entry.address = URL.createObjectURL(content);
    this.#changed();
  }

  /** Remove an entry, here and in other tabs. */
  remove(entry) {
    this.#drop([entry]);
    store((records) => records.filter(({ id }) => id !== entry.id));
    this.#changed();
  }

  #drop(gone) {
    for (const { address, state } of gone) {
      if (address && state !== "expired") URL.revokeObjectURL(address); // an expired entry may still be on display
    }
    this.#entries = this.#entries.filter((entry) => !gone.includes(entry));
  }

  #read() {
    const records = stored();
    const there = new Set(records.map(({ id }) => id));
    const gone = this.#entries.filter(({ id }) => id !== null && !there.has(id));
    for (const entry of gone) if (hasExpired(entry)) entry.state = "expired"; // another tab removed it first
    this.#drop(gone);
    for (const record of records.toReversed()) {
      if (this.#entries.some(({ id }) => id === record.id)) continue;
      this.#entries.unshift({ ...record, state: "answered", address: null, file: null, why: "" });
    }
    this.#changed();
  }

  #changed() {
    const expired = this.#entries.filter(hasExpired);
    if (expired.length) {
      for (const entry of expired) entry.state = "expired";
      this.#drop(expired);
      store((records) => records);
    }
    clearTimeout(this.#timer);
    const next = Math.min(...this.#entries.map(({ until }) => until ?? Infinity));
    if (next < Infinity) this.#timer = setTimeout(() => this.#changed(), Math.min(next - Date.now() + 20, 2 ** 31 - 1));
    this.dispatchEvent(new Event("change"));
  }
}

const hasExpired = ({ until }) => until !== null && until <= Date.now();

const area = () => (hasKey() ? ofTab : ofBrowser);

/** Forget the answers that were stored in this tab. */
export function forgetTab() {
  ofTab.remove(STORED);
}

/** The stored records that have not expired. What is not one, as another version may have written it, is left out. */
function stored(where = area()) {
  try {
    const records = JSON.parse(where.get(STORED) ?? "[]");
    return records.filter((one) => one?.id && one.answer?.model && one.until && !hasExpired(one));
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
    return [];
  }
}

/** Change the stored records, with those that other tabs have added. Expired ones are not stored again. */
function store(change, where = area()) {
  where.set(STORED, JSON.stringify(change(stored(where))));
}
