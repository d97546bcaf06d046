// The list of captions: filter, pages, keyboard.
import { badges, fused, openCaption } from "./caption.js";
import { Problem, ask, copy, el, textOf } from "./dom.js";

const form = document.getElementById("filter");
const body = document.querySelector("#rows tbody");
const status = document.getElementById("captions-status");
const dialog = document.getElementById("caption");
const [previous, next, sql] = ["previous", "next", "sql"].map((id) => document.getElementById(id));

let go; // switches to another view or filter
let filter = {}; // the current filter
let trail = []; // start of each page up to the current one
let page = { rows: [], following: null, sql: "" };
let opened = 0; // the row whose caption is open
let request = new AbortController();
let offered = null; // a promise that ends when the form has its choices

export async function showCaptions(parameters, goTo) {
  go = goTo;
  filter = parameters;
  trail = [null];
  offered ??= offerChoices();
  await offered;
  for (const field of form.elements)
    if (field.name) field.value = filter[field.name] ?? (field.name === "verdict" ? "any" : "");
  const unusual = ["flag", "shard", "dag_run_id", "score"].some((name) => filter[name]);
  if (unusual) form.querySelector("details").open = true;
  await load();
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
    fill(
      "fusion_id",
      choices.fusions.map((each) => [
        each.fusion_id,
        `${shortModel(each.model)}, ${each.num_beams} beams, ${each.fusion_id}`,
      ]),
    );
    document.getElementById("shards").append(...choices.shards.map((path) => el("option", { value: path })));
  } catch (error) {
    offered = null; // the list shows the problem; the next view tries again
    if (!(error instanceof Problem)) throw error;
  }
}

const shortModel = (model) => model.split("/").slice(-2).join("/");

async function load() {
  request.abort();
  request = new AbortController();
  document.getElementById("rows").setAttribute("aria-busy", "true");
  try {
    page = await ask("api/captions", { ...filter, after: trail.at(-1) }, request.signal);
    say();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    page = { rows: [], following: null, sql: "" };
    say(error);
  }
  draw();
}

function say(problem = null) {
  const filtered = Object.entries(filter).some(([name, value]) => value && !(name === "verdict" && value === "any"));
  status.classList.toggle("problem", problem !== null);
  status.replaceChildren();
  if (problem) status.append(problem.message, " ", el("button", { type: "button", onclick: load }, "Try again"));
  else if (page.rows.length)
    status.append(`${page.rows.length} captions${trail.length > 1 ? `, page ${trail.length}` : ""}, newest first`);
  else if (filtered) status.append("No caption matches this filter.");
  else status.append("No captions yet. They appear when a run loads its first unit.");
}

function draw() {
  document.getElementById("rows").setAttribute("aria-busy", "false");
  document.getElementById("rows").hidden = page.rows.length === 0;
  body.replaceChildren(...page.rows.map(drawRow));
  previous.disabled = trail.length < 2;
  next.disabled = page.following === null;
  sql.hidden = page.sql === "";
  sql.querySelector("pre").textContent = page.sql;
}

function drawRow(row, index) {
  const open = () => {
    opened = index;
    openCaption(row, { go, step, changed });
  };
  return el(
    "tr",
    {
      tabindex: index === 0 ? 0 : -1,
      class: row.reasons ? "rejected" : "accepted",
      "aria-label": `${row.reasons ? `Rejected: ${row.reasons.join(", ")}` : "Accepted"}. ${row.capsfusion}`,
      onclick: open,
      onkeydown: (event) => {
        if (event.key === "Enter") open();
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

// The row so many places after the opened one, on the next or previous page if need be; null at either end.
async function step(places) {
  let at = opened + places;
  if (at < 0 || at >= page.rows.length) {
    const pages = trail.length;
    if (!(await turn(places))) return null;
    at = trail.length > pages ? 0 : page.rows.length - 1;
  }
  body.rows[at]?.focus();
  opened = at;
  return page.rows[at] ?? null;
}

function changed(row) {
  const at = page.rows.indexOf(row);
  if (at >= 0) body.rows[at].querySelector(".badges").replaceWith(badges(row));
}

dialog.addEventListener("close", () => body.rows[opened]?.focus());

// ---- the form, the pager, the keyboard ----

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go("captions", Object.fromEntries(new FormData(form)));
});
form.addEventListener("change", (event) => {
  if (event.target.name !== "words") form.requestSubmit();
});
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
