// Requests to the service, with its API key, and its errors.

import { ofTab } from "./storage.js";

const KEY = "fusionlens.key";
const MOST_WAIT_S = 5; // longest Retry-After of a busy service that is waited for automatically
const MOST_WAITED_S = 60; // longest total wait of one request

/** An error answer of the service, or a failure to reach it. The message is a sentence for the user. */
export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether the prediction no longer exists. */
  get isGone() {
    return this.status === 404 || this.status === 410;
  }
}

let askForKey = async () => null;
let asking = null; // the pending dialog, shared by all requests that wait for a key

/** Set the function `dialog(why)`, which resolves with a key from the user, or with null. */
export function whenAKeyIsNeeded(dialog) {
  askForKey = dialog;
}

/** Whether this tab has a key to send. */
export function hasKey() {
  return ofTab.get(KEY) !== null;
}

/** Forget the key. */
export function forgetKey() {
  ofTab.remove(KEY);
}

/** Send a request and return what `read` makes of a successful response. `path` is relative, so that it is below the
 * prefix under which this page is. Throws Problem, and an AbortError if the signal among the options is aborted. */
export async function ask(path, read, options = {}) {
  let waited_s = 0;
  for (;;) {
    const key = ofTab.get(KEY);
    const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
    const response = await reached(() => fetch(path, { ...options, headers }));
    if (response.ok) return reached(() => read(response));
    const problem = await problemOf(response);
    const wait_s = Math.max(1, Number(response.headers.get("Retry-After") ?? Infinity));
    if (response.status === 429 && wait_s <= MOST_WAIT_S && waited_s + wait_s <= MOST_WAITED_S) {
      waited_s += wait_s;
      await new Promise((resolve) => setTimeout(resolve, wait_s * 1000));
      continue;
    }
    if (response.status !== 401) throw problem;
    if (key === ofTab.get(KEY)) ofTab.set(KEY, await newKey(problem));
  }
}

async function newKey(problem) {
  ofTab.remove(KEY);
  asking ??= askForKey(problem.message).finally(() => { asking = null; });
  const given = await asking;
  if (given === null) throw problem;
  return given;
}

/** Run one step of a request, and turn network errors and broken answers into a Problem. */
async function reached(step) {
  try {
    return await step();
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof SyntaxError)) throw error;
    throw new Problem("The service cannot be reached, or its answer broke off: look whether it runs, and try again.", 0);
  }
}

async function problemOf(response) {
  const isProblem = response.headers.get("content-type")?.startsWith("application/problem+json");
  const detail = isProblem ? (await reached(() => response.json())).detail : `The service answered ${response.status}.`;
  return new Problem(detail, response.status);
}
