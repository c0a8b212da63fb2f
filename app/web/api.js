// Requests to the service: its key, and its errors in its own sentences.

const KEY = "fusionlens.key";

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

/** Send no key any more. */
export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

/** What `read` makes of the response to a request that went well. Throws Problem. The path is relative to the page. */
export async function ask(path, read, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await reached(() => fetch(path, { ...options, headers: key === null ? {} : { "X-API-Key": key } }));
    if (response.ok) return reached(() => read(response));
    const problem = await problemOf(response);
    if (response.status !== 401) throw problem;
    if (key === sessionStorage.getItem(KEY)) sessionStorage.setItem(KEY, await newKey(problem));
  }
}

async function newKey(problem) {
  forgetKey();
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
