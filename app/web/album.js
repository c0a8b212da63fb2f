// The pictures of this browser: those being sent, and those that the service still keeps.
//
// An entry is {id, name, state, address, file, answer, at, until, why}: id is the prediction's, null until there is one;
// state is waiting, looking, answered, failed or expired; address is of a picture that the browser can show, or null;
// at (when it was answered) and until are in ms of this browser's clock. Kept between visits, and shared by tabs, is
// only what the service answered: pictures stay with the service, and expire there. Where the service wants a key, even
// that stays in this tab.

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

  /** Pictures that are about to be sent. */
  add(files) {
    const unanswered = { id: null, state: "waiting", answer: null, at: null, until: null, why: "" };
    const entries = files.map((file) => ({ ...unanswered, name: file.name, file, address: URL.createObjectURL(file) }));
    this.#entries.unshift(...entries.toReversed());
    this.#changed();
    return entries;
  }

  /** What has become of an entry. */
  update(entry, fields) {
    Object.assign(entry, fields);
    if (fields.answer?.stored) {
      entry.id = entry.answer.prediction_id;
      entry.file = null; // the service has what it needs
      const { id, name, answer, at, until } = entry;
      store((records) => [{ id, name, answer, at, until }, ...records]);
    }
    this.#changed();
  }

  /** Show another picture for an entry, unless it is gone. */
  picture(entry, content) {
    if (!this.#entries.includes(entry)) return;
    if (entry.address) URL.revokeObjectURL(entry.address);
    entry.address = URL.createObjectURL(content);
    this.#changed();
  }

  /** Drop an entry, here and in other tabs. */
  remove(entry) {
    this.#drop([entry]);
    store((records) => records.filter(({ id }) => id !== entry.id));
    this.#changed();
  }

  #drop(gone) {
    for (const { address, state } of gone) {
      if (address && state !== "expired") URL.revokeObjectURL(address); // an expired one may still be looked at
    }
    this.#entries = this.#entries.filter((entry) => !gone.includes(entry));
  }

  #read() {
    const records = stored();
    const there = new Set(records.map(({ id }) => id));
    const gone = this.#entries.filter(({ id }) => id !== null && !there.has(id));
    for (const entry of gone) if (hasExpired(entry)) entry.state = "expired"; // another tab noticed it first
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

/** Change what is stored, with what other tabs stored meanwhile. A full storage costs the history after a reload. */
function store(change) {
  try {
    storage().setItem(STORED, JSON.stringify(change(stored())));
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
  }
}
