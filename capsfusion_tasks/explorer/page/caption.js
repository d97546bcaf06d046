// One caption: its words, coloured by origin, and its details.
import { Problem, ask, copy, duration, el, number, runLink, textOf, time, visible } from "./dom.js";

const dialog = document.getElementById("caption");

export function fused(row) {
  const words = row.pieces.map(([text, origin]) => el("span", { class: origin || null }, visible(text)));
  return el("bdi", { dir: "auto", class: "fused" }, row.capsfusion ? words : el("em", {}, "empty"));
}

export function badges(row) {
  const reasons = (row.reasons ?? []).map((reason) => el("span", { class: "badge reason" }, reason));
  const flags = row.flags.map((flag) => el("span", { class: "badge" }, flag));
  return el(
    "p",
    { class: "badges" },
    row.reasons ? el("span", { class: "badge reason" }, "rejected") : null,
    reasons,
    flags,
  );
}

export async function openCaption(row, go) {
  try {
    const found = await ask(`api/captions/${row.pair_id}/${encodeURIComponent(row.fusion_id)}`);
    dialog.replaceChildren(...details(found, go));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    dialog.replaceChildren(el("p", { class: "problem" }, error.message), closeButton());
  }
  dialog.showModal();
}

const closeButton = () =>
  el("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close (Esc)");
const term = (name, ...value) => [el("dt", {}, name), el("dd", {}, value)];

function details(row, go) {
  const unit = row.unit;
  const show = (view, parameters) => () => {
    dialog.close();
    go(view, parameters);
  };
  return [
    closeButton(),
    el("h2", {}, row.reasons ? "Rejected" : "Accepted"),
    badges(row),
    el(
      "dl",
      { class: "texts" },
      term("Raw", textOf(row.laion_2b)),
      term("Synthetic", textOf(row.laion_coco)),
      term("Fused", fused(row)),
    ),
    el("h3", {}, "Where it comes from"),
    el(
      "dl",
      {},
      term(
        "Image",
        textOf(row.image_url),
        " ",
        el("button", { type: "button", onclick: (event) => copy(row.image_url, event.target) }, "Copy"),
      ),
      term("LAION-2B", file(row.laion_2b_file, row.laion_2b_row)),
      term("LAION-COCO", file(row.laion_coco_file, row.laion_coco_row)),
      term(
        "Unit",
        `${row.unit_id}: ${number(unit.rows_in)} rows, ${unit.tries} tries, ${duration(unit.gpu_seconds)} of GPU`,
      ),
      term("DAG run", row.dag_run_id ? runLink(row.dag_run_id, unit.replay) : "none (command line)"),
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
        el("button", { type: "button", onclick: show("runs", { dag_run_id: row.dag_run_id }) }, "Figures of this run"),
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
  if (!shard) return `row ${number(row)} of a shard that is not in the ledger`;
  return [
    textOf(shard.path),
    ` row ${number(row)}, of ${shard.source}, shard ${shard.shard_id}, arrived ${time(shard.arrived_at)}`,
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

function others(rows) {
  return el(
    "ul",
    {},
    rows.map((row) =>
      el(
        "li",
        {},
        textOf(row.capsfusion),
        ` (${row.fusion_id}, ${time(row.loaded_at)}${row.reasons ? `, rejected: ${row.reasons.join(", ")}` : ""})`,
      ),
    ),
  );
}
