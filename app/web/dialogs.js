// The dialogs: the one that asks for a key, and the one about the model.

import { element, list, make, say } from "./page.js";
import { minutes, percent } from "./words.js";

/** Ask for a key. Resolves with the key, or with null if the user cancels. */
export function askForKey(why) {
  const dialog = element("key-dialog");
  say("key-why", why);
  element("key").value = "";
  return new Promise((resolve) => {
    let given = null;
    const submit = (event) => {
      event.preventDefault();
      given = element("key").value.trim();
      dialog.close();
    };
    element("key-form").addEventListener("submit", submit);
    element("key-cancel").onclick = () => dialog.close();
    dialog.addEventListener("close", () => {
      element("key-form").removeEventListener("submit", submit);
      element("key").value = "";
      resolve(given || null);
    }, { once: true });
    dialog.showModal();
  });
}

/** Show the card of a model, from `GET /model`. */
export function tellAbout(card) {
  say("about-title", `${card.name} ${card.version}`);
  const figures = Object.entries(card.metrics.values).map(([name, value]) => `${name} ${value.toFixed(3)}`);
  const backbones = card.branches.slice(1).map((branch) => card.architecture[branch === "cnn" ? "cnn" : "swin"]);
  const { architecture, decision, limits, trust } = card;
  const millions = (count) => Math.round(count / 1e6);
  const rows = [
    ["Classes", card.classes.join(", ")],
    ["Measured", `${figures.join(", ")} on ${card.metrics.split} (${card.metrics.pictures} pictures)`],
    ["Decision", decision ? `${decision.positive} from ${percent(decision.threshold, 1)} on` : "the most likely class"],
    ["Refers to a person", trust ? trustOf(trust) : "nothing: it is not known when its answers can be relied on"],
    ["Built of", backbones.join(" and ")],
    ["Fused by", backbones.length > 1 ? architecture.fusion : "nothing, since there is one branch"],
    ["Data", card.data],
    ["Terms", card.licence],
    ["Runs on", `${card.engine}, FusionLens ${card.fusionlens}`],
    ["Takes", `up to ${millions(limits.max_upload_bytes)} MB and ${millions(limits.max_full_pixels)} megapixels, ` +
      `as JPEG ${millions(limits.max_pixels)}`],
    ["Keeps", `pictures and answers for ${minutes(limits.store_ttl_s)} at most`],
    ["Digest", card.sha256],
  ];
  list("about-notes", card.notes);
  element("about-rows").replaceChildren(...rows.flatMap(([term, said]) => [make("dt", term), make("dd", said)]));
  element("about").showModal();
}

/** What the bundle's trust part was fitted to, and what it promises. */
function trustOf({ refers, coverage, inside, chosen_on: chosenOn }) {
  return `${refers.map((code) => code.replaceAll("_", " ")).join(", ")}. Possible classes have a coverage of ` +
    `${percent(coverage)}, and ${percent(inside)} of the calibration pictures count as like the training data. ` +
    `Fitted to ${chosenOn}.`;
}
