// What this browser keeps for the page. Where it allows nothing, as with blocked cookies, or has no room, this tab keeps it
// until the page is closed, and the user is told.

const BLOCKED = "This browser keeps nothing for this page: after a reload, the list of pictures and the key are gone.";
const FULL = "This browser has no room for more: after a reload, some pictures are not in the list.";
let tell = () => {};
let told = null;

/** Set the function `said(sentence)`, which is called once something could not be kept. */
export function whenNotKept(said) {
  tell = said;
  if (told !== null) tell(told);
}

function lost(error) {
  if (!(error instanceof DOMException)) throw error;
  told = error.name === "QuotaExceededError" ? FULL : BLOCKED;
  tell(told);
}

class Area {
  #name;
  #instead = new Map(); // what the browser did not keep

  /** An area of the browser by the name that `window` gives it. */
  constructor(name) {
    this.#name = name;
  }

  /** Whether an event of `window` is about this area. */
  is(storageArea) {
    try {
      return storageArea === window[this.#name];
    } catch (error) {
      lost(error);
      return false;
    }
  }

  /** The text at a key, or null. */
  get(key) {
    if (this.#instead.has(key)) return this.#instead.get(key);
    try {
      return window[this.#name].getItem(key);
    } catch (error) {
      lost(error);
      return null;
    }
  }

  /** Set the text at a key. */
  set(key, text) {
    try {
      window[this.#name].setItem(key, text);
      this.#instead.delete(key);
    } catch (error) {
      this.#instead.set(key, text);
      lost(error);
    }
  }

  /** Forget the text at a key. */
  remove(key) {
    this.#instead.delete(key);
    try {
      window[this.#name].removeItem(key);
    } catch (error) {
      lost(error);
    }
  }
}

export const ofBrowser = new Area("localStorage");
export const ofTab = new Area("sessionStorage");
