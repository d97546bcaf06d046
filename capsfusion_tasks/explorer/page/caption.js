// One caption: its words, coloured by origin, and its details.
import { Problem, ask, copy, counted, duration, el, newest, number, outsideLink, runLink, textOf, time, visible } from "./dom.js";
import { LABELS, judgeByKey, judging } from "./judging.js";

const dialog = document.getElementById("caption");
const content = el("div");
const begin = newest();
let context; // functions of the list that contains the open caption

dialog.append(toolbar(), content);

export function fused(row) {
  const words = row.pieces.map(([text, origin, isMarked]) =>
    el(isMarked ? "mark" : "span", { class: origin || null }, visible(text)),
  );
  return el("bdi", { dir: "auto", class: "fused" }, row.capsfusion ? words : el("em", {}, "empty"));
}

export function badges(row) {
  const reasons = (row.reasons ?? []).map((reason) => el("span", { class: "badge reason" }, reason));
  const flags = row.flags.map((flag) => el("span", { class: "badge" }, flag));
  const judged = (row.judgements ?? [])
    .filter((each) => !each.outdated)
    .map((each) => el("span", { class: `badge ${each.verdict}` }, `${LABELS[each.verdict]}: ${each.judged_by}`));
  return el(
    "p",
    { class: "badges" },
    row.reasons ? el("span", { class: "badge reason" }, "rejected") : null,
    reasons,
    flags,
    judged,
  );
}

// Shows a caption. At first, shows what the list knows about the caption: the keys already act on this caption, so the
// dialog must not show the previous one.
// around: functions of the list of captions. go(view, parameters) shows a view. step(n) opens the caption that is n
// rows after the open one, open(row) any caption. changed(row) draws the row's badges again. closed() is called after
// the user closed the caption.
export async function openCaption(row, around) {
  context = around;
  const signal = waitForCaption(row);
  if (!dialog.open) {
    dialog.showModal();
    dialog.focus(); // otherwise its first button would get the focus, and Enter would press it
  }
  try {
    const found = await ask(`api/captions/${row.pair_id}/${encodeURIComponent(row.fusion_id)}`, {}, signal);
    draw(details(found, row));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    draw([...texts(row), el("p", { class: "problem" }, error.message)]);
  }
  dialog.setAttribute("aria-busy", "false");
}

// Until the next caption is loaded, shows only row: what the list knows about this caption. Returns the signal for the
// caption's request. The request is aborted when the user goes to another caption or closes the dialog.
export function waitForCaption(row = {}) {
  const signal = begin();
  dialog.setAttribute("aria-busy", "true");
  draw([...texts(row), el("p", { class: "status", role: "status" }, "Loading…")]);
  dialog.scrollTop = 0;
  return signal;
}

// Replaces all but the toolbar. If this removes the element with the focus, the dialog gets the focus.
function draw(children) {
  const lost = content.contains(document.activeElement);
  content.replaceChildren(...children.filter(Boolean));
  if (lost) dialog.focus();
}

// Shows that a judgement was not saved. Called if the judged caption is no longer shown.
function unsaved(row, problem) {
  const show = () => {
    notice.remove();
    context.open(row);
  };
  const button = el("button", { type: "button", onclick: show }, "Show the caption");
  const notice = el("p", { class: "problem", role: "alert" }, "A judgement was not saved: ", problem.message, " ", button);
  if (dialog.open) content.before(notice);
  else document.getElementById("captions").prepend(notice);
}

// Closes the dialog, and aborts the request whose answer would open it again.
export function leaveCaption() {
  begin();
  dialog.close();
  content.replaceChildren();
}

export function closeCaption() {
  leaveCaption();
  context.closed();
}

dialog.addEventListener("cancel", (event) => {
  event.preventDefault(); // Esc
  closeCaption();
});

// Handles keys while a dialog is open, wherever the focus is: a button that had the focus may have been removed.
export function captionKeys(event) {
  if (!dialog.open || event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    event.preventDefault();
    context.step(event.key === "ArrowRight" ? 1 : -1);
  } else judgeByKey(dialog, event.key);
}

function toolbar() {
  const button = (label, key, onclick) =>
    el("button", { type: "button", onclick }, `${label} `, el("kbd", { "aria-hidden": "true" }, key));
  return el(
    "p",
    { class: "toolbar" },
    button("Previous", "←", () => context.step(-1)),
    button("Next", "→", () => context.step(1)),
    el("button", { type: "button", class: "close", onclick: closeCaption }, "Close (Esc)"),
  );
}

// The verdict and the texts of a caption. Empty if row has no texts, because the caption is only in the page's address.
function texts(row) {
  if (row.capsfusion === undefined) return [];
  const rescued = row.beam > 1 && `caption of beam ${row.beam}, because the best beam was rejected: ${row.rescued_from.join(", ")}`;
  return [
    el("h2", {}, row.reasons ? "Rejected" : "Accepted"),
    el(
      "dl",
      { class: "texts" },
      term("Raw", textOf(row.laion_2b)),
      term("Synthetic", textOf(row.laion_coco)),
      term("Fused", fused(row)),
      rescued && term("Rescued", rescued),
    ),
  ];
}

const term = (name, ...value) => [el("dt", {}, name), el("dd", {}, value)];

function details(row, listed) {
  const unit = row.unit;
  const show = (view, parameters) => () => {
    leaveCaption();
    context.go(view, parameters);
  };
  return [
    ...texts(row),
    findings(row),
    judging(row, (judgements) => {
      listed.judgements = judgements;
      context.changed(listed);
    }, (problem) => unsaved(listed, problem)),
    el("h3", {}, "Where it comes from"),
    el(
      "dl",
      {},
      term("Image", image(row.image_url)),
      term("LAION-2B", file(row.laion_2b_file, row.laion_2b_row)),
      term("LAION-COCO", file(row.laion_coco_file, row.laion_coco_row)),
      term(
        "Unit",
        `${row.unit_id}: ${counted(unit.rows_in, "row", "rows")}, ${counted(unit.tries, "try", "tries")}, GPU time ${duration(unit.gpu_seconds)}`,
      ),
      term("DAG run", row.dag_run_id ? runLink(row.dag_run_id, unit.replay) : "none: run on the command line"),
      unit.replay
        ? term("Replay", `${unit.replay}, of rejected captions of fusion ${unit.replay_of}`)
        : term("Interval", `${time(unit.interval_start)} to ${time(unit.interval_end)}`),
      term("Loaded", time(row.loaded_at)),
      term(
        "Model",
        `${row.fusion.model}${row.fusion.model_revision ? `@${row.fusion.model_revision}` : ""}, ${row.fusion.num_beams} beams, ${row.fusion.dtype}, ${row.fusion.engine}; fusion_id ${row.fusion_id}`,
      ),
      term("Keys", `pair_id ${row.pair_id}, laion_hash ${row.laion_hash}`),
    ),
    el(
      "p",
      { class: "actions" },
      row.dag_run_id &&
        el("button", { type: "button", onclick: show("runs", { dag_run_id: row.dag_run_id, fusion_id: row.fusion_id }) }, "Figures of this run"),
      row.dag_run_id &&
        el(
          "button",
          { type: "button", onclick: show("captions", { dag_run_id: row.dag_run_id }) },
          "Captions of this run",
        ),
      el(
        "button",
        { type: "button", onclick: show("captions", { shard: row.laion_2b_shard }) },
        "Captions of this LAION-2B shard",
      ),
    ),
    el("h3", {}, "Scores"),
    scores(row),
    ...(row.others.length ? [el("h3", {}, "Other captions of this pair"), others(row.others)] : []),
  ];
}

function file(shard, row) {
  if (!shard) return `row ${number(row)} (from 0) of a shard that is not in the ledger`;
  return [
    textOf(shard.path),
    ` row ${number(row)} (from 0), of ${shard.source}, shard ${shard.shard_id}, arrived ${time(shard.arrived_at)}`,
  ];
}

function scores(row) {
  const names = [
    "caption_words",
    "raw_recall",
    "synthetic_recall",
    "fact_recall",
    "novelty",
    "invention",
    "repetition",
    "source_overlap",
  ];
  names.push("similarity", "punsafe", "pwatermark", "prompt_tokens", "caption_tokens", "finish_reason");
  const show = (value) => (typeof value === "string" ? value : number(value));
  return el(
    "dl",
    { class: "scores" },
    names.flatMap((name) => term(name, show(row[name]))),
  );
}

// What each rule found, and the score that it compared with its threshold.
function findings(row) {
  if (!row.findings.length) return null;
  return el(
    "ul",
    { class: "findings" },
    row.findings.map((each) =>
      el(
        "li",
        {},
        el("span", { class: `badge ${each.rejects ? "reason" : ""}` }, each.code),
        ` ${each.meaning}`,
        each.score && ` This caption's ${each.score} is ${number(each.value)}; the current threshold is ${number(each.threshold)}.`,
        each.found.length > 0 && [" Found: ", each.found.map((text, at) => [at ? ", " : "", el("mark", {}, textOf(text))])],
      ),
    ),
  );
}

// The image's address, and a button that loads the image. Loading it tells the image's server the user's IP address.
function image(url) {
  const parts = [el("button", { type: "button", onclick: (event) => copy(url, event.target) }, "Copy")];
  if (!/^https?:/i.test(url)) return [textOf(url), el("span", { class: "buttons" }, parts)];
  const show = (event) => {
    const frame = el("iframe", { class: "image", title: "The image", src: `image?${new URLSearchParams({ url })}` });
    event.target.previousElementSibling.focus();
    event.target.replaceWith(frame);
  };
  parts.push(el("button", { type: "button", onclick: show }, "Show image"));
  return [outsideLink(url, textOf(url), true), el("span", { class: "buttons" }, parts)];
}

// Other captions of the pair, one below the other. Marks the words that differ from the open caption.
function others(rows) {
  return el(
    "ul",
    { class: "others" },
    rows.map((row) =>
      el(
        "li",
        {},
        el(
          "bdi",
          { dir: "auto" },
          row.diff.map(([text, isNew]) => el(isNew ? "ins" : "span", {}, visible(text))),
        ),
        el(
          "small",
          {},
          ` ${row.fusion_id}, ${time(row.loaded_at)}${row.reasons ? `, rejected: ${row.reasons.join(", ")}` : ""}` +
            `${row.replayed_at ? `, replaced ${time(row.replayed_at)}` : ""}`,
        ),
      ),
    ),
  );
}
