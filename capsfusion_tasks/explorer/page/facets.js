// The counts beside the list, and the histogram of a score. A click adds a value to the filter, or removes it.
import { el, number } from "./dom.js";

// A count as text. An estimate begins with "about".
export function counted({ captions, exact }) {
  if (captions === null) return "a few (not counted)";
  return exact ? number(captions) : `about ${number(captions)}`;
}

// found: the facets of filter. change(parts) sets parts of the filter. A part with the value "" is removed. Instead of
// parts, change also accepts a function that returns them. Its argument is the current filter, which is newer than the
// argument filter while the next facets are being counted.
// of: the models' names, the scores, and a function show(score) that requests the histogram of another score.
export function facets(found, filter, change, of) {
  const values = (name, title, all, label = (value) => value) =>
    facet(title, all.map(({ value, captions }) => [label(value), captions, filter[name] === value, () =>
      change(filter[name] === value ? { [name]: "" } : { [name]: value })]), found.exact);
  const verdicts = Object.entries(found.verdicts).map(([verdict, count]) => [
    verdict,
    count.captions,
    filter.verdict === verdict,
    () => change({ verdict: filter.verdict === verdict ? "any" : verdict, reason: "" }),
    count.exact,
  ]);
  const reasons = found.reasons.map(({ value, captions }) => [
    value,
    captions,
    filter.reason === value,
    () => change(filter.reason === value ? { reason: "" } : { reason: value, verdict: "rejected" }),
  ]);
  return [
    facet("Verdict", verdicts, true),
    facet("Reasons for rejection", reasons, found.exact),
    values("flag", "Flags", found.flags),
    values("fusion_id", "Models", found.fusions, (id) => of.models.get(id) ?? id),
    values("day", "Days", found.days),
    found.bins.some((bin) => bin.captions) || filter.score ? histogram(found, filter, change, of) : null,
    found.exact ? null : el("p", { class: "note" }, "~ marks estimates from the ledger and a sample"),
  ].filter(Boolean);
}

function facet(title, values, exact) {
  if (!values.length) return null;
  const most = Math.max(1, ...values.map(([, captions]) => captions ?? 0));
  const items = values.map(([label, captions, chosen, onclick, isExact = exact]) => {
    const shown = captions === null ? "few" : `${isExact ? "" : "~"}${number(captions)}`;
    const bar = el("meter", { min: 0, max: most, value: captions ?? 0, "aria-hidden": "true" });
    const parts = [el("span", { class: "name" }, label), el("span", { class: "count" }, chosen ? `${shown} ✕` : shown), bar];
    return el("li", {}, el("button", { type: "button", "aria-pressed": `${chosen}`, title: label, onclick }, parts));
  });
  return el("section", {}, el("h3", {}, title), el("ul", {}, items));
}

function histogram({ score, bins, exact }, filter, change, of) {
  const most = Math.max(1, ...bins.map((bin) => bin.captions));
  const chosen = filter.score === score;
  const inside = (bin) =>
    chosen && (filter.score_min ?? 0) <= bin.start && bin.start < (filter.score_below ?? filter.score_max ?? Infinity);
  const choose = el("select", { "aria-label": "Histogram of", onchange: (event) => of.show(event.target.value) });
  choose.append(...of.scores.map((each) => el("option", { value: each, selected: each === score }, each)));
  const drawn = bins.map((bin) => {
    const range = bin.end === null ? `${number(bin.start)} and more` : `${number(bin.start)} to ${number(bin.end)}`;
    const label = `${range}: ${exact ? "" : "about "}${number(bin.captions)}`;
    const column = el("button", { type: "button", title: label, "aria-label": label, "aria-pressed": `${inside(bin)}` });
    column.style.setProperty("--tall", `${(100 * bin.captions) / most}%`);
    column.addEventListener("click", (event) =>
      change((present) => range_of(bin, event.shiftKey && present.score === score ? present : null)),
    );
    return column;
  });
  const none = { score: "", score_min: "", score_max: "", score_below: "" };
  return el(
    "section",
    { class: "histogram" },
    el("h3", {}, choose, chosen && el("button", { type: "button", onclick: () => change(none) }, "any ✕")),
    el("div", { class: "columns", title: "Shift-click extends the range to here" }, drawn),
    el("p", { class: "ends" }, el("span", {}, number(bins[0].start)), el("span", {}, `${number(bins.at(-1).start)}+`)),
  );

  // The range of scores that a click selects: the bin. With Shift, the filter's range (before) is extended to the bin.
  // If the bin is inside that range, the range then ends with the bin.
  function range_of(bin, before) {
    if (before && bin.start < before.score_min) return { score_min: bin.start };
    const start = before ? (before.score_min ?? "") : bin.start;
    return { score, score_min: start, score_max: "", score_below: bin.end ?? "" };
  }
}
