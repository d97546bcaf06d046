// The list of captions: filter, facets, pages, keyboard.
import { bulk } from "./bulk.js";
import { badges, fused, openCaption } from "./caption.js";
import { Problem, ask, copy, el, number, set, shortModel, textOf } from "./dom.js";
import { counted, facets } from "./facets.js";
import { hinted } from "./hints.js";

const form = document.getElementById("filter");
const body = document.querySelector("#rows tbody");
const status = document.getElementById("captions-status");
const beside = document.querySelector("#facets > div");
const dialog = document.getElementById("caption");
const [previous, next, sql] = ["previous", "next", "sql"].map((id) => document.getElementById(id));
const PAGE = 25;
const EMPTY = { rows: [], following: null, sql: "", hint: null };

let go; // switches to another view or filter
let note; // writes the opened caption into the address
let filter = {}; // the current filter, as the app's parameters
let trail = []; // the start of each page, up to the current page
let page = EMPTY;
let total = null; // number of matching captions; null until they are counted
let opened = -1; // the index in the page of the row whose caption is open
let request = new AbortController();
// On a narrow screen, the facets are above the list.
if (innerWidth <= 900) document.getElementById("facets").open = false;
let offered = null; // a promise that resolves when the form has its choices
let histogram = "caption_words";
const known = { models: new Map(), scores: [], show: (score) => count((histogram = score)) };

export async function showCaptions({ caption, ...parameters }, address, _, tab) {
  ({ go, note } = address);
  // Without a filter, show accepted captions. In the tab of a run, the run's own parameters do not count as a filter.
  const asked = Object.keys(parameters).some((name) => !(name in tab));
  // Only rejected captions have a reason, so the app ignores the verdict of a filter with a reason.
  const verdict = parameters.reason ? "rejected" : (parameters.verdict ?? (asked ? "any" : "accepted"));
  filter = { ...parameters, verdict };
  trail = [null];
  offered ??= offerChoices();
  await offered;
  const fields = {
    ...filter,
    words: filter.words ?? filter.url ?? filter.pair_id,
    within: filter.url ? "url" : filter.pair_id ? "pair_id" : (filter.within ?? "fused"),
  };
  for (const field of form.elements) if (field.name) set(field, fields[field.name] ?? "");
  const unusual = ["shard", "dag_run_id"].some((name) => filter[name]);
  if (unusual) form.querySelector("details").open = true;
  total = null;
  count();
  await load();
  if (!caption) return dialog.open && dialog.close();
  const [pair_id, fusion_id] = caption.split(" ");
  opened = page.rows.findIndex((row) => row.pair_id === pair_id && row.fusion_id === fusion_id);
  open(page.rows[opened] ?? { pair_id, fusion_id });
}

async function offerChoices() {
  try {
    const choices = await ask("api/choices");
    const fill = (name, values) =>
      form.elements[name].append(...values.map(([value, label]) => el("option", { value }, label)));
    for (const name of ["reason", "flag", "score"])
      fill(
        name,
        choices[`${name}s`].map((value) => [value, value]),
      );
    known.scores = choices.scores;
    for (const { fusion_id: id, model, num_beams: beams } of choices.fusions)
      known.models.set(id, `${shortModel(model)}, ${beams} beams, ${id}`);
    fill("fusion_id", [...known.models]);
    const options = (names) => names.map((value) => el("option", { value }));
    document.getElementById("shards").append(...options(choices.shards));
    document.getElementById("run-ids").append(...options(choices.runs));
  } catch (error) {
    offered = null; // try again at the next view; the list of captions shows the problem
    if (!(error instanceof Problem)) throw error;
  }
}

const change = (parts) => go("captions", { ...filter, ...(typeof parts === "function" ? parts(filter) : parts) });

async function load() {
  request.abort();
  request = new AbortController();
  document.getElementById("rows").setAttribute("aria-busy", "true");
  try {
    page = await ask("api/captions", { ...filter, limit: PAGE, after: trail.at(-1) }, request.signal);
    say();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    page = EMPTY;
    say(error);
  }
  draw();
}

let counting = new AbortController();

async function count() {
  counting.abort();
  counting = new AbortController();
  beside.setAttribute("aria-busy", "true");
  // The buttons still belong to the previous filter.
  for (const button of document.querySelectorAll("#bulk button")) button.disabled = true;
  if (!beside.hasChildNodes()) beside.append(el("p", { class: "status" }, "Counting…"));
  try {
    const found = await ask("api/facets", { ...filter, histogram }, counting.signal);
    total = found.total;
    beside.replaceChildren(...facets(found, filter, change, known));
    document.getElementById("bulk").replaceChildren(...(await bulk(found, filter)));
    if (page.rows.length) say();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    beside.replaceChildren(el("p", { class: "problem" }, error.message));
  }
  beside.setAttribute("aria-busy", "false");
}

function say(problem = null) {
  const filtered = Object.entries(filter).some(([name, value]) => value && name !== "verdict");
  status.classList.toggle("problem", problem !== null);
  status.replaceChildren();
  const first = PAGE * (trail.length - 1) + 1;
  if (problem) status.append(problem.message, " ", el("button", { type: "button", onclick: load }, "Try again"));
  else if (page.rows.length)
    status.append(
      `${number(first)} to ${number(first + page.rows.length - 1)}`,
      total ? ` of ${counted(total)} captions` : " of …",
      `${trail.length > 1 ? `, page ${trail.length}` : ""}, newest first`,
    );
  else if (filtered || filter.verdict === "rejected")
    status.append("No caption matches this filter.", ...hinted(page.hint, filter, change));
  else status.append(`No ${filter.verdict === "any" ? "" : "accepted "}captions yet. They appear when a run loads its first unit.`);
}

function draw() {
  document.getElementById("rows").setAttribute("aria-busy", "false");
  document.getElementById("rows").hidden = page.rows.length === 0;
  body.replaceChildren(...page.rows.map(drawRow));
  document.getElementById("legend").hidden = page.rows.length === 0;
  document.querySelector(".pager").hidden = page.sql === "";
  previous.hidden = next.hidden = page.rows.length === 0 && trail.length < 2;
  previous.disabled = trail.length < 2;
  next.disabled = page.following === null;
  sql.querySelector("pre").textContent = page.sql;
}

function open(row) {
  note(row);
  openCaption(row, { go, step, changed });
}

function drawRow(row, index) {
  const show = () => {
    opened = index;
    open(row);
  };
  return el(
    "tr",
    {
      tabindex: index === 0 ? 0 : -1,
      class: row.reasons ? "rejected" : "accepted",
      "aria-label": `${row.reasons ? `Rejected: ${row.reasons.join(", ")}` : "Accepted"}. ${row.capsfusion}`,
      onclick: show,
      onkeydown: (event) => {
        if (event.key === "Enter") show();
      },
      onfocus: (event) => {
        for (const each of body.rows) each.tabIndex = each === event.currentTarget ? 0 : -1;
      },
    },
    el("td", { "data-label": "Raw" }, textOf(row.laion_2b)),
    el("td", { "data-label": "Synthetic" }, textOf(row.laion_coco)),
    el("td", { "data-label": "Fused" }, fused(row), badges(row)),
  );
}

// The row that is `places` rows after the opened one. Loads another page if necessary. null: the list has no such row.
async function step(places) {
  let at = opened + places;
  if (at < 0 || at >= page.rows.length) {
    const pages = trail.length;
    if (!(await turn(places))) return null;
    at = trail.length > pages ? 0 : page.rows.length - 1;
  }
  body.rows[at]?.focus();
  opened = at;
  if (page.rows[at]) note(page.rows[at]);
  return page.rows[at] ?? null;
}

function changed(row) {
  const at = page.rows.indexOf(row);
  if (at >= 0) body.rows[at].querySelector(".badges").replaceWith(badges(row));
}

dialog.addEventListener("close", () => {
  note(null);
  body.rows[opened]?.focus();
});

// ---- the form, the pager, the keyboard ----

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go("captions", asked(Object.fromEntries(new FormData(form))));
});
form.addEventListener("change", (event) => {
  const { name, value } = event.target;
  if (name.startsWith("score")) form.elements.score_below.value = "";
  if (name === "reason" && value) form.elements.verdict.value = "rejected";
  if (name === "verdict" && value !== "rejected") form.elements.reason.value = "";
  if (name !== "words" && (name !== "within" || form.elements.words.value.trim())) form.requestSubmit();
});

// Converts the form's fields to the app's parameters. A URL or a pair_id in the field for
// words becomes the parameter url or pair_id.
function asked({ words, within, ...others }) {
  const text = words.trim();
  if (/^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i.test(text) || within === "pair_id") return { ...others, pair_id: text };
  if (/^https?:\/\//i.test(text) || within === "url") return { ...others, url: text };
  return { ...others, words: text, within: text && within !== "fused" ? within : "" };
}

document.getElementById("clear").addEventListener("click", () => go("captions"));
document.getElementById("copy-sql").addEventListener("click", (event) => copy(page.sql, event.target));
next.addEventListener("click", () => turn(1));
previous.addEventListener("click", () => turn(-1));

async function turn(step) {
  if (step > 0 && page.following) trail.push(page.following);
  else if (step < 0 && trail.length > 1) trail.pop();
  else return false;
  await load();
  body.rows[0]?.focus();
  return true;
}

export function captionKeys(event) {
  if (dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && typing) {
    event.target.blur();
    (body.querySelector("[tabindex='0']") ?? document.body).focus();
  }
  if (typing) return;
  const at = [...body.rows].indexOf(document.activeElement);
  const actions = {
    "/": () => form.elements.words.focus(),
    ArrowDown: () => body.rows[Math.min(at + 1, body.rows.length - 1)]?.focus(),
    ArrowUp: () => body.rows[Math.max(at - 1, 0)]?.focus(),
    ArrowRight: () => turn(1),
    ArrowLeft: () => turn(-1),
  };
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
}
