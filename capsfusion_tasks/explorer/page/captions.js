// The list of captions: filter, facets, pages, keyboard.
import { bulk } from "./bulk.js";
import { badges, captionKeys, closeCaption, fused, openCaption, waitForCaption } from "./caption.js";
import { Problem, ask, copy, el, newest, number, set, shortModel, textOf } from "./dom.js";
import { counted, facets } from "./facets.js";
import { hinted } from "./hints.js";

const form = document.getElementById("filter");
const body = document.querySelector("#rows tbody");
const status = document.getElementById("captions-status");
const beside = document.querySelector("#facets > div");
const [previous, next, sql] = ["previous", "next", "sql"].map((id) => document.getElementById(id));
const PAGE = 25;
const EMPTY = { rows: [], following: null, sql: "", hint: null };

let go; // switches to another view or filter
let note; // writes the opened caption into the address
let filter = {}; // the current filter, as the app's parameters
let trail = []; // the start of each page, up to the last page that was requested
let page = EMPTY; // the page that is shown
let loading = false; // whether a requested page has not arrived yet
let total = null; // number of matching captions; null until they are counted
let opened = null; // the row whose caption is open
const [begin, beginLoad, beginCount] = [newest(), newest(), newest()];
// On a narrow screen, the facets are above the list.
if (innerWidth <= 900) document.getElementById("facets").open = false;
let offered = null; // a promise that resolves when the form has its choices
let histogram = "caption_words";
const known = { models: new Map(), scores: [], show: (score) => count((histogram = score)) };

export async function showCaptions({ caption, ...parameters }, address, _, tab) {
  ({ go, note } = address);
  const signal = begin();
  opened = null;
  // Without a filter, show accepted captions. In the tab of a run, the run's own parameters do not count as a filter.
  const asked = Object.keys(parameters).some((name) => !(name in tab));
  // Only rejected captions have a reason, so the app ignores the verdict of a filter with a reason.
  const verdict = parameters.reason ? "rejected" : (parameters.verdict ?? (asked ? "any" : "accepted"));
  filter = { ...parameters, verdict };
  trail = [null];
  loading = true;
  offered ??= offerChoices();
  await offered;
  if (signal.aborted) return;
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
  if (!(await load()) || !caption || opened) return;
  const [pair_id, fusion_id] = caption.split(" ");
  open(page.rows.find((row) => row.pair_id === pair_id && row.fusion_id === fusion_id) ?? { pair_id, fusion_id });
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

// Loads and draws the last page of the trail. Returns false if the request was aborted, such as by a newer request.
async function load() {
  const signal = beginLoad();
  loading = true;
  previous.disabled = trail.length < 2;
  next.disabled = true; // only the page that is loading says where the next one starts
  document.getElementById("rows").setAttribute("aria-busy", "true");
  let problem = null;
  try {
    page = await ask("api/captions", { ...filter, limit: PAGE, after: trail.at(-1) }, signal);
  } catch (error) {
    if (error.name === "AbortError") return false;
    if (!(error instanceof Problem)) throw error;
    page = EMPTY;
    problem = error;
  }
  loading = false;
  say(problem);
  draw();
  return true;
}

async function count() {
  const signal = beginCount();
  beside.setAttribute("aria-busy", "true");
  // The buttons still belong to the previous filter.
  for (const button of document.querySelectorAll("#bulk button")) button.disabled = true;
  if (!beside.hasChildNodes()) beside.append(el("p", { class: "status" }, "Counting…"));
  try {
    const found = await ask("api/facets", { ...filter, histogram }, signal);
    total = found.total;
    beside.replaceChildren(...facets(found, filter, change, known));
    if (page.rows.length && !loading) say();
    const buttons = await bulk(found, filter);
    if (signal.aborted) return;
    document.getElementById("bulk").replaceChildren(...buttons);
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
  opened = row;
  note(row);
  openCaption(row, { go, open, step, changed, closed });
}

function closed() {
  const at = page.rows.indexOf(opened);
  opened = null;
  note(null);
  body.rows[at]?.focus();
}

function drawRow(row, index) {
  return el(
    "tr",
    {
      tabindex: index === 0 ? 0 : -1,
      class: row.reasons ? "rejected" : "accepted",
      "aria-label": `${row.reasons ? `Rejected: ${row.reasons.join(", ")}` : "Accepted"}. ${row.capsfusion}`,
      onclick: () => open(row),
      onkeydown: (event) => {
        if (event.key === "Enter") open(row);
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

// Opens the caption that is `places` rows after the open one. Loads another page if necessary.
async function step(places) {
  if (loading) return; // the list does not know yet which caption comes next
  const row = page.rows[page.rows.indexOf(opened) + places];
  if (row) return open(row);
  if (!ask_for(places)) return;
  const signal = waitForCaption();
  if (!(await load()) || signal.aborted) return;
  if (page.rows.length) open(page.rows.at(places > 0 ? 0 : -1));
  else closeCaption(); // the list shows why there is no caption
}

function changed(row) {
  const at = page.rows.indexOf(row);
  if (at >= 0) body.rows[at].querySelector(".badges").replaceWith(badges(row));
}

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

async function turn(pages) {
  if (ask_for(pages) && (await load())) body.rows[0]?.focus();
}

// Changes the trail to an older (1) or newer (-1) page. Returns false if there is none, or if its start is not known.
function ask_for(pages) {
  if (pages > 0 && page.following && !loading) trail.push(page.following);
  else if (pages < 0 && trail.length > 1) trail.pop();
  else return false;
  return true;
}

export function listKeys(event) {
  if (document.querySelector("dialog[open]")) return captionKeys(event);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
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
