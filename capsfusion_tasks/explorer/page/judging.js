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

const unsaved = new Map(); // path of a judgement → the note that could not be saved, and the problem

// A section with all judgements of the caption and the buttons to judge it. Calls changed(judgements) after a change,
// and failed(problem) if a change fails when the section is no longer shown.
export function judging(row, changed, failed) {
  const path = `api/captions/${row.pair_id}/${encodeURIComponent(row.fusion_id)}/judgement`;
  const problem = el("p", { class: "problem", role: "alert" });
  const all = el("div");
  const place = el("section", { class: "judging", "aria-label": "Judgements" }, problem, all);
  const save = (verdict, note) =>
    change("PUT", { verdict, note, shown: row.capsfusion }, (judged_by) => [
      { judged_by, verdict, note, judged_at: new Date().toISOString(), outdated: false },
    ]);
  const withdraw = () => change("DELETE", undefined, () => []);
  const asked = form(save, withdraw);

  const draw = (name) => {
    problem.textContent = unsaved.get(path)?.problem.message ?? "";
    problem.hidden = !unsaved.has(path);
    asked.show(row.judgements.find((each) => each.judged_by === name && !each.outdated), unsaved.get(path)?.note);
    all.replaceChildren(...said(row.judgements, name));
  };

  let last = Promise.resolve(); // the last change; the next one waits for it, so that the server gets them in order
  const change = (method, body, mine) => (last = last.then(() => changeNow(method, body, mine)));
  const changeNow = async (method, body, mine) => {
    const name = await whoJudges();
    try {
      await send(method, path, body);
      unsaved.delete(path);
      row.judgements = [...mine(name), ...row.judgements.filter((each) => each.judged_by !== name)];
      changed(row.judgements);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      unsaved.set(path, { note: asked.note.value, problem: error });
      if (!place.isConnected) failed(error);
    }
    draw(name);
  };

  whoJudges().then((name) => {
    if (name !== null) place.prepend(asked.element);
    draw(name);
  });
  return place;
}

// Presses the button that belongs to a key: 1, 2 or 3.
export function judgeByKey(place, key) {
  place.querySelector(`.judging button[data-key="${key}"]`)?.click();
}

// The form for a judgement. It stays the same while changes are saved, so that it keeps the focus and what a user
// types.
function form(save, withdraw) {
  let mine = null; // the user's judgement as it is saved; null before the first show()
  const note = el("input", { name: "note", placeholder: "Note", "aria-label": "Note", maxlength: 2000 });
  const buttons = VERDICTS.map(([verdict, label, key]) =>
    el(
      "button",
      { type: "button", "data-key": key, "data-verdict": verdict, onclick: () => save(verdict, note.value) },
      `${label} `,
      el("kbd", {}, key),
    ),
  );
  const back = el("button", { type: "button", onclick: withdraw }, "Withdraw");
  note.addEventListener("keydown", async (event) => {
    if (event.key !== "Enter" || !mine) return;
    await save(mine.verdict, note.value);
    // The note is saved: give the focus to the dialog, so that keys are commands again.
    if (note.value === mine?.note && document.activeElement === note) note.closest("dialog").focus();
  });
  const show = (judgement, draft = judgement?.note ?? "") => {
    if (note.value === (mine?.note ?? "")) note.value = draft; // else keep the newer note that the user has typed
    mine = judgement;
    for (const button of buttons) button.setAttribute("aria-pressed", `${button.dataset.verdict === mine?.verdict}`);
    if (!mine && document.activeElement === back) buttons[0].focus();
    back.hidden = !mine;
  };
  const question = el("span", { class: "faint" }, "Would you train on this caption?");
  return { element: el("p", { class: "verdicts" }, question, buttons, note, back), note, show };
}

function said(all, name) {
  const lines = all.map((each) =>
    el(
      "li",
      {},
      el("span", { class: `badge ${each.verdict}` }, LABELS[each.verdict]),
      ` ${each.judged_by === name ? "you" : each.judged_by}, ${time(each.judged_at)}`,
      each.note && [": ", el("bdi", { dir: "auto" }, each.note)],
      each.outdated && " (judged an earlier caption of this pair)",
    ),
  );
  return lines.length ? [el("ul", { class: "said" }, lines)] : [];
}
