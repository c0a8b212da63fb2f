// Questions about a prediction as requests, and a cache of their answers.

import { ask } from "./api.js";
import { parseNpy } from "./npy.js";

/** The query parameters of a question, without unset ones. A question is {route, ...parameters}. */
export function parametersOf({ route, ...parameters }) {
  const set = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(set);
}

/** Request an explanation by the prediction's id or, if it is not stored, by sending the picture again. */
export function request(entry, question, format, read, signal) {
  return send(entry, { ...question, format }, read, signal);
}

function send(entry, question, read, signal) {
  const parameters = parametersOf(question);
  if (entry.answer.stored) {
    parameters.set("prediction_id", entry.answer.prediction_id);
    return ask(`${question.route}?${parameters}`, read, { signal });
  }
  return ask(`${question.route}?${parameters}`, read, { method: "POST", body: formOf(entry), signal });
}

/** The form with the picture of an entry. */
export function formOf({ file, name }) {
  const form = new FormData();
  form.append("file", file, name);
  return form;
}

const known = new WeakMap(); // entry → question → promise of the answer; freed together with the entry

/** The explanation as {heatmap, legend, …}. The request is given up when `signal` is aborted. Throws Problem. */
export function explain(entry, question, signal) {
  return once(entry, `${question.route}?${parametersOf(question)}`, signal, async () => {
    const answer = await request(entry, question, "json", (response) => response.json(), signal);
    return { ...answer, heatmap: { values: Float32Array.from(answer.heatmap.flat()), shape: answer.shape } };
  });
}

/** The training pictures that the picture resembles most: the answer of `/similar`. Throws Problem. */
export function similar(entry) {
  return once(entry, "similar", undefined, () => send(entry, { route: "similar" }, (response) => response.json()));
}

/** All attention maps: {values, shape, about}. The shape is heads × query rows × query columns × rows × columns. */
export function attention(entry, question) {
  return once(entry, `whole ${parametersOf(question)}`, undefined, () =>
    request(entry, { ...question, whole: true }, "npy", async (response) => {
      const about = JSON.parse(response.headers.get("FusionLens-Explanation"));
      return { ...parseNpy(await response.arrayBuffer()), about };
    }));
}

function once(entry, name, signal, compute) {
  if (!known.has(entry)) known.set(entry, new Map());
  const answers = known.get(entry);
  if (!answers.has(name)) {
    const answer = compute();
    answers.set(name, answer);
    const forget = () => answers.get(name) === answer && answers.delete(name); // allow another try
    answer.then(() => signal?.removeEventListener("abort", forget), forget);
    signal?.addEventListener("abort", forget); // at once, so that nobody waits for an answer that was given up
  }
  return answers.get(name);
}
