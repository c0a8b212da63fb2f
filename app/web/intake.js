// Where pictures come from: chosen, photographed, dropped, pasted, or one of the drawn examples.

import { element } from "./page.js";

/** `take(files)` hears of every picture that the user gives. */
export function listenForPictures(take) {
  for (const id of ["choose", "photograph"]) {
    element(id).addEventListener("change", ({ target }) => {
      take([...target.files]);
      target.value = ""; // so that the same picture can be chosen again
    });
  }
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", async () => {
      const content = await (await fetch(button.dataset.example)).blob();
      take([new File([content], button.dataset.example.split("/").at(-1), { type: content.type })]);
    });
  }
  addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && take([...clipboardData.files]));
  let inside = 0; // dragenter and dragleave come for every element on the way
  const show = () => { element("dropping").hidden = inside === 0; };
  const carriesFiles = ({ dataTransfer }) => dataTransfer.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) inside++;
    show();
  });
  addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) inside--;
    show();
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    show();
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}
