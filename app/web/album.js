// The pictures of this browser: those being sent, and those whose prediction the service still stores.
//
// An entry is {id, name, state, address, file, answer, at, until, why}. `id` is the prediction's id, or null before the
// answer. `state` is waiting, looking, answered, failed or expired. `address` is that of a picture which the browser
// can show, or null. `at` is when the answer came, and `until` when it expires, in ms of this browser's clock. Only the
// answers are stored in the browser, for later visits and other tabs; the pictures stay with the service. If the
// service requires a key, the answers are stored for this tab alone.

import { hasKey } from "./api.js";

const STORED = "fusionlens.predictions";

export class Album extends EventTarget {
  #entries = [];
  #timer = 0;

  constructor() {
    super();
    addEventListener("storage", ({ key, storageArea }) => key === STORED && storageArea === storage() && this.#read());
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
      store((records) => records.filter((record) => !hasExpired(record)));
    }
    clearTimeout(this.#timer);
    const next = Math.min(...this.#entries.map(({ until }) => until ?? Infinity));
    if (next < Infinity) this.#timer = setTimeout(() => this.#changed(), Math.min(next - Date.now() + 20, 2 ** 31 - 1));
    this.dispatchEvent(new Event("change"));
  }
}

const hasExpired = ({ until }) => until !== null && until <= Date.now();

function storage() {
  return hasKey() ? sessionStorage : localStorage;
}

function stored() {
  return JSON.parse(storage().getItem(STORED) ?? "[]");
}

/** Change the stored records, with those that other tabs have added. If the storage is full, the change is lost. */
function store(change) {
  try {
    storage().setItem(STORED, JSON.stringify(change(stored())));
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
  }
}
