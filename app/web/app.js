// Choose a picture, see the answer and what speaks for it.
const element = (id) => document.getElementById(id);
let prediction;
let decision;
let asked = 0;

async function ask(url, options) {
  const response = await fetch(url, options);
  if (!response.ok) throw new Error((await response.json()).detail);
  return response;
}

function say(text, error = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", error);
}

function options(select, values) {
  select.replaceChildren(...values.map((value) => new Option(value, value)));
}

function showAnswer(answer) {
  element("label").textContent = answer.label;
  element("probabilities").replaceChildren(...answer.probabilities.map(({ label, probability }) => {
    const row = document.createElement("li");
    const meter = document.createElement("meter");
    meter.value = probability;
    meter.ariaLabel = label;
    row.append(label, meter, `${(100 * probability).toFixed(1)} %`);
    return row;
  }));
  element("rule").textContent = decision
    ? `The answer is ${decision.positive} from ${(100 * decision.threshold).toFixed(0)} % on.` : "";
  element("target").value = answer.label;
  element("answer").hidden = false;
}

async function showExplanation() {
  const query = new URLSearchParams({
    prediction_id: prediction.prediction_id, target: element("target").value, branch: element("branch").value,
  });
  const turn = ++asked;
  const [explanation, overlay] = await Promise.all([
    ask(`gradcam?${query}&format=json`).then((response) => response.json()),
    ask(`gradcam?${query}`).then((response) => response.blob()),
  ]);
  if (turn !== asked) return; // a newer choice is on its way
  const shares = Object.entries(explanation.branches)
    .map(([branch, { share }]) => `${branch} ${Math.round(100 * share)} %`).join(", ");
  URL.revokeObjectURL(element("overlay").src);
  element("overlay").src = URL.createObjectURL(overlay);
  element("overlay").alt = `What speaks for ${explanation.target}`;
  element("caption").textContent = explanation.no_positive_evidence
    ? `Nothing in the picture speaks for ${explanation.target}. Branch shares: ${shares}.`
    : `Evidence for ${explanation.target}, up to ${explanation.legend.high.toPrecision(2)} logits a cell. ` +
      `Branch shares: ${shares}.`;
}

async function attempt(action) {
  try {
    await action();
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

element("picture").addEventListener("change", ({ target }) => attempt(async () => {
  if (!target.files.length) return;
  element("answer").hidden = true;
  say("Looking at the picture…");
  const form = new FormData();
  form.append("file", target.files[0]);
  prediction = await (await ask("predict", { method: "POST", body: form })).json();
  showAnswer(prediction);
  await showExplanation();
}));
for (const id of ["target", "branch"]) element(id).addEventListener("change", () => attempt(showExplanation));

attempt(async () => {
  const model = await (await ask("model")).json();
  element("model").textContent = `${model.name} ${model.version}: ${model.classes.join(", ")}. ${model.notes.join(" ")}`;
  decision = model.decision;
  options(element("target"), model.classes);
  options(element("branch"), model.branches);
});
