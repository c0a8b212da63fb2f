// Requests to the service: its key, and its errors in its own sentences.

const KEY = "fusionlens.key";

/** What the service, or the way to it, answered instead of what was asked for. */
export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let askForKey = async () => null;
let asking = null; // one dialog for all requests that wait for a key

/** `dialog(why)` gets a key from the user, or null. */
export function whenAKeyIsNeeded(dialog) {
  askForKey = dialog;
}

/** The response to a request that went well. Throws Problem. The path is relative to the page. */
export async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await sent(path, key, options);
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401) throw problem;
    if (key !== null && key === sessionStorage.getItem(KEY)) sessionStorage.removeItem(KEY);
    if (sessionStorage.getItem(KEY) === null) {
      asking ??= askForKey(problem.message).finally(() => { asking = null; });
      const given = await asking;
      if (given === null) throw problem;
      sessionStorage.setItem(KEY, given);
    }
  }
}

async function sent(path, key, options) {
  const headers = key === null ? {} : { "X-API-Key": key };
  try {
    return await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached: look whether it runs, and try again.", 0);
  }
}

async function problemOf(response) {
  const isProblem = response.headers.get("content-type")?.startsWith("application/problem+json");
  const detail = isProblem ? (await response.json()).detail : `The service answered ${response.status}.`;
  return new Problem(detail, response.status);
}

/** Whether this tab has a key to send. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}
