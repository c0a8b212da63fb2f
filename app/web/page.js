// The elements of index.html, by their ids.

export const element = (id) => document.getElementById(id);

/** Fill a list with sentences. */
export function list(id, sentences) {
  element(id).replaceChildren(...sentences.map((sentence) => {
    const item = document.createElement("li");
    item.textContent = sentence;
    return item;
  }));
}
