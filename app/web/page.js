// The elements of index.html, by their ids.

export const element = (id) => document.getElementById(id);

/** Let an element say something. What it says already is not said to a screen reader again. */
export function say(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

/** Fill a list with sentences. */
export function list(id, sentences) {
  element(id).replaceChildren(...sentences.map((sentence) => make("li", sentence)));
}

/** A new element with these contents. */
export function make(name, ...contents) {
  const made = document.createElement(name);
  made.append(...contents);
  return made;
}

/** Resolves when what was changed can be seen, or soon where nobody looks. */
export function painted() {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 100);
  });
}
