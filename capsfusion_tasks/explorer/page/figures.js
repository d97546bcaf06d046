// The figures of a run, or of all runs: funnel, speed, scores.
import { bars, columns } from "./charts.js";
import { counted, duration, el, number, percent, runLink, time } from "./dom.js";

export function figures(found, go) {
  const { summary, distributions } = found;
  // The list can show the captions of a DAG run or of all runs, but not of a run or replay on the command line.
  const listed = found.dag_run_id || !(found.interval || found.replay);
  const key = { dag_run_id: found.dag_run_id, fusion_id: found.fusion_id };
  return [
    el("h2", {}, title(found)),
    found.dag_run_id &&
      el("p", {}, "DAG run ", runLink(found.dag_run_id, isReplay(found)), found.fusion_id && `, fusion ${found.fusion_id}`),
    facts(found),
    funnel(found),
    ...speed(found.throughput),
    ...outcome(distributions, found.histogram_ends),
    failures(found),
    el(
      "p",
      { class: "actions" },
      listed && el("button", { type: "button", onclick: () => go("captions", key) }, "Show captions"),
      listed &&
        summary.rejected > 0 &&
        el(
          "button",
          { type: "button", onclick: () => go("captions", { ...key, verdict: "rejected" }) },
          "Show rejected captions",
        ),
    ),
  ].filter(Boolean);
}

// A replay's units have no data interval.
function isReplay({ interval, dag_run_id: run, replay }) {
  return !interval && Boolean(run || replay);
}

function title(found) {
  if (found.interval) return `Interval ${time(found.interval.start)} to ${time(found.interval.end)}`;
  return isReplay(found) ? "A replay of rejected captions" : "All runs";
}

function facts({ summary, units, progress }) {
  const done = summary.accepted + summary.rejected;
  const left =
    summary.waiting === 0
      ? "nothing left to do"
      : progress.seconds_left === null
        ? "unknown until the first unit is loaded"
        : duration(progress.seconds_left);
  const states = Object.entries(units).filter(([, count]) => count);
  const each = [
    ["Accepted", `${number(summary.accepted)} of ${number(done)} (${percent(summary.accepted, done)})`],
    ["Units", states.map(([name, count]) => `${number(count)} ${name}`).join(", ") || "none"],
    ["GPU time", duration(summary.gpu_seconds)],
    [
      "Speed",
      `${number(summary.rows_per_second)} captions per GPU second, ${number(progress.rows_per_second)} per second of wall time`,
    ],
    ["Time left", left],
    ["Tokens", `${number(summary.prompt_tokens)} in prompts, ${number(summary.caption_tokens)} in captions`],
  ];
  return el(
    "dl",
    { class: "facts" },
    each.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );
}

function funnel(all) {
  const { sides, found, summary, distributions } = all;
  const rows = [];
  for (const [side, label] of [
    ["laion_2b", "raw"],
    ["laion_coco", "synthetic"],
  ]) {
    const arrived = sides[side];
    if (!arrived) continue;
    rows.push([`${label} rows (${counted(arrived.shards, "shard", "shards")})`, arrived.rows]);
    for (const [reason, count] of Object.entries(arrived.dropped))
      rows.push([`dropped: ${reason}`, count, "lost", true]);
  }
  if (found) {
    rows.push(["pairs", found.pairs], ["already fused", found.already_fused, "lost", true]);
    if (found.gone) rows.push(["left out: the image is gone", found.gone, "lost", true]);
    if (found.left) rows.push(["left for a later run", found.left, "waiting", true]);
  }
  const done = summary.accepted + summary.rejected;
  rows.push(
    [isReplay(all) ? "rejected before, replayed" : "new pairs, planned", summary.rows_in],
    ["fused and loaded", done],
    ["accepted", summary.accepted, "accepted"],
    ["rejected", summary.rejected, "rejected"],
  );
  if (summary.waiting) rows.push(["waiting", summary.waiting, "waiting"]);
  const whole = distributions.rejected === summary.rejected;
  for (const [reason, count] of Object.entries(distributions.reasons)) {
    rows.push([
      `for ${reason}`,
      whole ? count : Math.round((count * summary.rejected) / distributions.rejected),
      "rejected",
      true,
    ]);
  }
  const notes = [
    found && "Pairs: rows of this run's shards, joined with all rows that had been pulled by the time of the run's join. A row may be in several pairs.",
    found && "Already fused: pairs that are in other units, loaded or not.",
    found && !all.fusion_id && "Counts of all fusions together: a pair counts once per fusion.",
    !whole && `Reasons are estimates from ${number(distributions.rejected)} rejected captions of the newest units.`,
  ].filter(Boolean);
  return el("div", {}, bars("From shards to captions", rows), el("p", { class: "note" }, notes.join(" ")));
}

function speed({ bin_seconds: width, bins }) {
  if (!bins.length) return [];
  const label = (bin) => `${time(bin.start)}, ${counted(bin.units, "unit", "units")}`;
  bins = withGaps(bins, 1000 * width);
  const marks =
    bins.length > 10
      ? [
          [0, time(bins[0].start)],
          [1, time(bins.at(-1).start)],
        ]
      : [[0, `from ${time(bins[0].start)}`]];
  const charts = [
    columns(
      `Captions loaded per ${duration(width)}`,
      bins.map((bin) => [label(bin), bin.rows]),
      marks,
    ),
    columns(
      `GPU hours per ${duration(width)}`,
      bins.map((bin) => [label(bin), (bin.gpu_seconds ?? 0) / 3600]),
      marks,
    ),
  ];
  return [el("div", { class: "charts" }, charts)];
}

// Adds an empty bin for each period in which nothing was loaded.
function withGaps(bins, step) {
  const known = new Map(bins.map((bin) => [Date.parse(bin.start), bin]));
  const all = [];
  for (let at = Date.parse(bins[0].start); at <= Date.parse(bins.at(-1).start); at += step) {
    all.push(known.get(at) ?? { start: new Date(at).toISOString(), units: 0, rows: 0, gpu_seconds: 0 });
  }
  return all;
}

const TITLES = {
  caption_words: "Words per caption",
  fact_recall: "Share of the raw caption's names and numbers that are kept",
  raw_recall: "Share of the raw caption's words that are kept",
  synthetic_recall: "Share of the synthetic caption's words that are kept",
  novelty: "Share of words that are in neither source",
  invention: "Share of names and numbers that are in neither source",
};

function outcome({ accepted, flags, scores }, ends) {
  if (!accepted) return [];
  const flagged = Object.entries(flags)
    .map(([flag, count]) => `${flag} ${percent(count, accepted)}`)
    .join(", ");
  const charts = Object.entries(scores).map(([name, counts]) => {
    const end = ends[name];
    const unit = end > 1 ? (value) => number(value) : (value) => `${number(100 * value)}%`;
    const step = end / counts.length;
    const values = counts.map((count, index) => [`${unit(index * step)} to ${unit((index + 1) * step)}`, count]);
    return columns(
      TITLES[name],
      values,
      [
        [0, unit(0)],
        [0.5, unit(end / 2)],
        [1, end > 1 ? `${unit(end)} and more` : unit(end)],
      ],
    );
  });
  return [
    el("h3", {}, "Scores"),
    el(
      "p",
      { class: "note" },
      `From a sample of ${number(accepted)} accepted captions of the newest units${flagged && `; flagged: ${flagged}`}.`,
    ),
    el("div", { class: "charts" }, charts),
  ];
}

function failures({ failed_shards: shards, failed_units: units }) {
  const lines = [
    ...shards.map(([side, path, error]) => `Shard ${side}/${path}: ${error}`),
    ...units.map(([unit, tries, error]) => `Unit ${unit}, ${counted(tries, "try", "tries")}: ${error}`),
  ];
  return lines.length
    ? el(
        "div",
        { class: "problem" },
        el("h3", {}, "Failures"),
        el(
          "ul",
          {},
          lines.map((line) => el("li", {}, line)),
        ),
      )
    : null;
}
