// Trends: acceptance, reasons and speed by day and model.
import { Problem, ask, el, newest, number, percent, set, shortModel } from "./dom.js";
import { lines, stacks } from "./lines.js";

const place = document.getElementById("trends");
const MOST_REASONS = 6;
const begin = newest();

export async function showTrends(parameters, address) {
  const { go } = address;
  const signal = begin();
  place.replaceChildren(el("p", { class: "status", role: "status" }, "Loading…"));
  try {
    const [found, choices] = await Promise.all([
      ask("api/trends", { fusion_id: parameters.fusion_id }, signal),
      ask("api/choices", {}, signal),
    ]);
    place.replaceChildren(...drawn(found, choices.fusions, parameters.fusion_id ?? "", go));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    const again = el("button", { type: "button", onclick: () => showTrends(parameters, address) }, "Try again");
    place.replaceChildren(el("p", { class: "status problem", role: "status" }, error.message, " ", again));
  }
}

function drawn({ days: rows, reasons }, fusions, chosen, go) {
  const choose = el("select", { onchange: (event) => go("trends", { fusion_id: event.target.value }) });
  choose.append(
    el("option", { value: "" }, "all"),
    ...fusions.map(({ fusion_id: id, model }) => el("option", { value: id }, `${shortModel(model)}, ${id}`)),
  );
  set(choose, chosen);
  const head = el("p", { class: "actions" }, el("label", { class: "beside-label" }, "Model ", choose));
  if (!rows.length) return [head, el("p", { class: "status" }, "No captions are loaded yet.")];
  const days = [...new Set(rows.map((row) => row.day))];
  const models = [...new Set(rows.map((row) => row.fusion_id))];
  const name = (id) => `${shortModel(fusions.find((each) => each.fusion_id === id)?.model ?? "")} ${id}`;
  const at = new Map(rows.map((row) => [`${row.day} ${row.fusion_id}`, row]));
  const by = (value) =>
    models.map((id) => [name(id), days.map((day) => (at.has(`${day} ${id}`) ? value(at.get(`${day} ${id}`)) : null))]);
  const sum = (day, verdict) => rows.filter((row) => row.day === day).reduce((all, row) => all + row[verdict], 0);
  const open = (day) => go("captions", { day, fusion_id: chosen, verdict: "any" });
  return [
    head,
    lines("Accepted", days, by(({ accepted, rejected }) => accepted / (accepted + rejected)), (value) => percent(value, 1), open, 1),
    stacks("Captions", days, [
      ["accepted", days.map((day) => sum(day, "accepted"))],
      ["rejected", days.map((day) => sum(day, "rejected"))],
    ], number, open),
    stacks("Reasons for rejection, as shares of all captions", days, byReason(days, reasons, sum), (value) => percent(value, 1), open),
    lines("Captions per GPU second", days, by(({ accepted, rejected, gpu_seconds: gpu }) => (gpu ? (accepted + rejected) / gpu : null)), number, open),
    el("p", { class: "note" }, "Shows the newest 60 days that have captions. A caption belongs to the day on which its data interval starts (UTC). Reasons are estimates from up to 150 rejected captions per day. A caption with two reasons counts for both. Click a day to see its captions."),
  ].filter(Boolean);
}

// The shares of the most frequent reasons, and the sum of all others.
function byReason(days, reasons, sum) {
  const share = (day) => sum(day, "rejected") / Math.max(1, sum(day, "rejected") + sum(day, "accepted"));
  const all = {};
  for (const day of days)
    for (const [reason, part] of Object.entries(reasons[day] ?? {})) all[reason] = (all[reason] ?? 0) + part * share(day);
  const names = Object.keys(all).sort((one, other) => all[other] - all[one]);
  const shown = names.slice(0, MOST_REASONS).map((reason) => [reason, days.map((day) => (reasons[day]?.[reason] ?? 0) * share(day))]);
  const rest = names.slice(MOST_REASONS);
  if (rest.length)
    shown.push(["others", days.map((day) => rest.reduce((all, each) => all + (reasons[day]?.[each] ?? 0) * share(day), 0))]);
  return shown;
}
