// Functions on the elements of index.html, which are found by their ids.

export const element = (id) => document.getElementById(id);

/** Set the text of an element, unless it has that text already: a screen reader would announce it again. */
export function say(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

/** Replace the items of a list by sentences. */
export function list(id, sentences) {
  element(id).replaceChildren(...sentences.map((sentence) => make("li", sentence)));
}

/** Create an element with these contents. */
export function make(name, ...contents) {
  const made = document.createElement(name);
  made.append(...contents);
  return made;
}

/** Resolves after the next frame is painted, or after 100 ms if the page is hidden. */
export function painted() {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 100);
  });
}
