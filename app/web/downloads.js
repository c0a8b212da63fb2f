// Downloads: files, and the commands that fetch them without this page.

import { parametersOf, request } from "./questions.js";

/** Save a Blob as a file with this name. */
export function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The explanation as the service encodes it in a format. Throws Problem. */
export function fileOf(entry, question, format) {
  return request(entry, question, format, (response) => response.blob());
}

/** The answer and its explanation as one JSON file. Throws Problem. */
export async function recordOf(entry, question) {
  const explanation = await request(entry, question, "json", (response) => response.json());
  const record = { picture: entry.name, prediction: entry.answer, explanation };
  return new Blob([JSON.stringify(record, null, 1)], { type: "application/json" });
}

/** The file name of a download: picture, method, branch and target. */
export function nameOf(entry, question, ending) {
  const stem = entry.name.replace(/\.[^.]*$/, "") || "picture";
  const kind = question.route === "explain" ? question.method : question.route;
  const what = [kind, question.branch, question.target].filter(Boolean).join("-");
  return `${stem}-${what}.${ending}`.replace(/[^\p{L}\p{N}._+-]/gu, "_");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const addressOf = (question) => new URL(`${question.route}?${parametersOf(question)}`, document.baseURI).href;

/** The curl command that sends the picture's file and saves the same overlay. */
export function curlOf(entry, question, withKey) {
  const key = withKey ? ' -H "Authorization: Bearer $FUSIONLENS_KEY"' : "";
  // Quoted twice: for the shell, and for curl, which gives commas and semicolons in a name a meaning.
  const file = quoted(`file=@"${entry.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`);
  return `curl -f${key} -F ${file} ${quoted(addressOf(question))} -o overlay.png`;
}

/** The same as a Python script with httpx. */
export function pythonOf(entry, question, withKey) {
  const parameters = [...parametersOf(question)].map((pair) => pair.map((text) => JSON.stringify(text)).join(": "));
  const lines = [
    "from pathlib import Path",
    "",
    "import httpx",
    "",
    "answer = httpx.post(",
    `    ${JSON.stringify(new URL(question.route, document.baseURI).href)},`,
    `    params={${parameters.join(", ")}},`,
    `    files={"file": Path(${JSON.stringify(entry.name)}).read_bytes()},`,
    ...(withKey ? ['    headers={"Authorization": "Bearer " + os.environ["FUSIONLENS_KEY"]},'] : []),
    "    timeout=60,",
    ")",
    "answer.raise_for_status()",
    'Path("overlay.png").write_bytes(answer.content)',
  ];
  return [...(withKey ? ["import os"] : []), ...lines].join("\n");
}
