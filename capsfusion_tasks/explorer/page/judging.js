// Judging a caption: good, minor fault or bad, with a note.
import { Problem, el, send, time } from "./dom.js";

const VERDICTS = [
  ["good", "Good", "1"],
  ["minor", "Minor fault", "2"],
  ["bad", "Bad", "3"],
];
export const LABELS = Object.fromEntries(VERDICTS.map(([verdict, label]) => [verdict, label]));

let judge; // a promise of the user's name; null if the user may not judge

async function whoJudges() {
  judge ??= send("GET", "api/judge").then(({ name }) => name);
  try {
    return await judge;
  } catch (error) {
    judge = undefined;
    if (!(error instanceof Problem)) throw error;
    if (error.status === 403) judge = Promise.resolve(null);
    return null;
  }
}

// Whether the user may edit the DAG. Such users may judge, replay and export captions.
export const mayEdit = async () => (await whoJudges()) !== null;

// A section with all judgements of the caption and the buttons to judge it. Calls changed(judgements) after a change.
export function judging(row, changed) {
  const place = el("section", { class: "judging", "aria-label": "Judgements" });
  const draw = async (problem = null) => {
    const name = await whoJudges();
    place.replaceChildren(
      ...[
        name === null ? null : form(row, name, save, withdraw),
        problem && el("p", { class: "problem", role: "alert" }, problem.message),
        said(row.judgements, name),
      ].filter(Boolean),
    );
  };
  const path = `api/captions/${row.pair_id}/${encodeURIComponent(row.fusion_id)}/judgement`;
  const change = async (method, body, of) => {
    try {
      await send(method, path, body);
      row.judgements = of(row.judgements);
      changed(row.judgements);
      await draw();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      await draw(error);
    }
  };
  const save = async (verdict, note) => {
    const judged_by = await whoJudges();
    const mine = { judged_by, verdict, note, judged_at: new Date().toISOString(), outdated: false };
    await change("PUT", { verdict, note, shown: row.capsfusion }, (all) => [mine, ...without(all, judged_by)]);
  };
  const withdraw = async () => {
    const judged_by = await whoJudges();
    await change("DELETE", undefined, (all) => without(all, judged_by));
  };
  draw();
  return place;
}

// Presses the button that belongs to a key: 1, 2 or 3.
export function judgeByKey(place, key) {
  place.querySelector(`.judging button[data-key="${key}"]`)?.click();
}

const without = (all, name) => all.filter((each) => each.judged_by !== name);

function form(row, name, save, withdraw) {
  const mine = row.judgements.find((each) => each.judged_by === name && !each.outdated);
  const note = el("input", { name: "note", placeholder: "Note", "aria-label": "Note", maxlength: 2000 });
  note.value = mine?.note ?? "";
  const buttons = VERDICTS.map(([verdict, label, key]) =>
    el(
      "button",
      {
        type: "button",
        "data-key": key,
        "data-verdict": verdict,
        "aria-pressed": mine?.verdict === verdict ? "true" : "false",
        onclick: () => save(verdict, note.value),
      },
      `${label} `,
      el("kbd", {}, key),
    ),
  );
  note.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && mine) save(mine.verdict, note.value);
  });
  return el(
    "p",
    { class: "verdicts" },
    el("span", { class: "faint" }, "Would you train on this caption?"),
    buttons,
    note,
    mine && el("button", { type: "button", onclick: withdraw }, "Withdraw"),
  );
}

function said(all, name) {
  if (!all.length) return null;
  return el(
    "ul",
    { class: "said" },
    all.map((each) =>
      el(
        "li",
        {},
        el("span", { class: `badge ${each.verdict}` }, LABELS[each.verdict]),
        ` ${each.judged_by === name ? "you" : each.judged_by}, ${time(each.judged_at)}`,
        each.note && [": ", el("bdi", { dir: "auto" }, each.note)],
        each.outdated && " (judged an earlier caption of this pair)",
      ),
    ),
  );
}
