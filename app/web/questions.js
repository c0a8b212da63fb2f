// What can be asked about a prediction: as an address, and its answer, kept so that it is not asked again.

import { ask } from "./api.js";
import { parseNpy } from "./npy.js";

/** Parameters of a question without those that are not set. A question is {route, ...parameters}. */
export function parametersOf({ route, ...parameters }) {
  const set = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(set);
}

/** What `read` makes of an explanation: of a stored prediction by its id, else by sending the picture again. */
export function request(entry, question, format, read) {
  const parameters = parametersOf({ ...question, format });
  if (entry.answer.stored) {
    parameters.set("prediction_id", entry.answer.prediction_id);
    return ask(`${question.route}?${parameters}`, read);
  }
  return ask(`${question.route}?${parameters}`, read, { method: "POST", body: formOf(entry) });
}

/** The form that a picture is sent in. */
export function formOf({ file, name }) {
  const form = new FormData();
  form.append("file", file, name);
  return form;
}

const known = new WeakMap(); // entry → question → answer, gone with the entry

/** The answer as {heatmap, legend, …}. Throws Problem. */
export function explain(entry, question) {
  return once(entry, `${question.route}?${parametersOf(question)}`, async () => {
    const answer = await request(entry, question, "json", (response) => response.json());
    return { ...answer, heatmap: { values: Float32Array.from(answer.heatmap.flat()), shape: answer.shape } };
  });
}

/** All attention maps at once: {values, shape} of heads × query rows × query columns × rows × columns, and about. */
export function attention(entry, question) {
  return once(entry, `whole ${parametersOf(question)}`, () =>
    request(entry, { ...question, whole: true }, "npy", async (response) => {
      const about = JSON.parse(response.headers.get("FusionLens-Explanation"));
      return { ...parseNpy(await response.arrayBuffer()), about };
    }));
}

function once(entry, name, compute) {
  if (!known.has(entry)) known.set(entry, new Map());
  const answers = known.get(entry);
  if (!answers.has(name)) {
    const answer = compute();
    answers.set(name, answer);
    answer.catch(() => answers.delete(name)); // may go well another time
  }
  return answers.get(name);
}
