// The elements of index.html, by their ids.

export const element = (id) => document.getElementById(id);

/** Resolves when what was changed can be seen, or soon where nobody looks. */
export function painted() {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 100);
  });
}

/** Fill a list with sentences. */
export function list(id, sentences) {
  element(id).replaceChildren(...sentences.map((sentence) => {
    const item = document.createElement("li");
    item.textContent = sentence;
    return item;
  }));
}
