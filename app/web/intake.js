// Takes pictures from the user: chosen, photographed, dropped, pasted, or one of the drawn examples.

import { ask } from "./api.js";
import { element } from "./page.js";

/** Call `take(files)` for every picture that the user gives. `attempt` runs actions that may fail. */
export function listenForPictures(take, attempt) {
  for (const id of ["choose", "photograph"]) {
    element(id).addEventListener("change", ({ target }) => {
      take([...target.files]);
      target.value = ""; // so that the same picture can be chosen again
    });
  }
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => attempt(async () => {
      const content = await ask(button.dataset.example, (response) => response.blob());
      take([new File([content], button.dataset.example.split("/").at(-1), { type: content.type })]);
    }));
  }
  addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && take([...clipboardData.files]));
  addEventListener("dragenter", ({ dataTransfer }) => {
    element("dropping").hidden = !dataTransfer.types.includes("Files");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (relatedTarget === null) element("dropping").hidden = true; // the pointer has left the window
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    element("dropping").hidden = true;
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}
