// Requests to the service: its key, and its errors in its own sentences.

const KEY = "fusionlens.key";
const MOST_WAIT_S = 5; // that is waited for by itself, when the service is busy and says for how long
const MOST_WAITED_S = 60; // in all, for one request

/** What the service, or the way to it, answered instead of what was asked for. */
export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** What was asked about is not there any more. */
  get isGone() {
    return this.status === 404 || this.status === 410;
  }
}

let askForKey = async () => null;
let asking = null; // one dialog for all requests that wait for a key

/** `dialog(why)` gets a key from the user, or null. */
export function whenAKeyIsNeeded(dialog) {
  askForKey = dialog;
}

/** Whether this tab has a key to send. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Send no key any more, and keep nothing of what it was for. */
export function forgetKey() {
  sessionStorage.clear();
}

/** What `read` makes of the response to a request that went well. Throws Problem. The path is relative to the page. */
export async function ask(path, read, options = {}) {
  let waited_s = 0;
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await reached(() => fetch(path, { ...options, headers: key === null ? {} : { "X-API-Key": key } }));
    if (response.ok) return reached(() => read(response));
    const problem = await problemOf(response);
    const wait_s = Math.max(1, Number(response.headers.get("Retry-After") ?? Infinity));
    if (response.status === 429 && wait_s <= MOST_WAIT_S && waited_s + wait_s <= MOST_WAITED_S) {
      waited_s += wait_s;
      await new Promise((resolve) => setTimeout(resolve, wait_s * 1000));
      continue;
    }
    if (response.status !== 401) throw problem;
    if (key === sessionStorage.getItem(KEY)) sessionStorage.setItem(KEY, await newKey(problem));
  }
}

async function newKey(problem) {
  sessionStorage.removeItem(KEY);
  asking ??= askForKey(problem.message).finally(() => { asking = null; });
  const given = await asking;
  if (given === null) throw problem;
  return given;
}

/** The ways in which a request, or the body of its answer, breaks off. */
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
