// Runs: the list, and the figures of one run or of all.
import { share } from "./charts.js";
import { Problem, ask, el, newest, number } from "./dom.js";
import { figures } from "./figures.js";

const list = document.getElementById("run-list");
const place = document.getElementById("figures");
const DAGS = ["capsfusion", "capsfusion_replay"];
const begin = newest();

// key selects a run by dag_run_id, by replay, or by its interval's start and end. It may also select a fusion_id.
// An empty key selects all runs.
// dag: the DAG of the run whose tab shows this page; undefined outside such a tab.
export async function showRuns(key, address, dag) {
  const { go } = address;
  const alone = dag !== undefined; // in Airflow's tab of one run
  list.hidden = alone;
  const signal = begin();
  if (alone && !DAGS.includes(dag)) {
    place.replaceChildren(
      el("p", { class: "status" }, `Captions come from the DAGs ${DAGS.join(" and ")}; this is a run of ${dag}.`),
    );
    return;
  }
  place.replaceChildren(el("p", { class: "status", role: "status" }, "Loading…"));
  const again = () => showRuns(key, address, dag);
  await Promise.all([
    shown(place, again, async () => figures(await ask("api/figures", key, signal), go)),
    alone || shown(list, again, async () => runs(await ask("api/runs", {}, signal), key, go)),
  ]);
}

async function shown(where, again, make) {
  try {
    where.replaceChildren(...(await make()));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    const retry = error.status === 404 ? null : el("button", { type: "button", onclick: again }, "Try again");
    where.replaceChildren(
      el("p", { class: `status ${error.status === 404 ? "" : "problem"}`, role: "status" }, error.message, " ", retry),
    );
  }
}

// ---- the list ----

function runs(found, key, go) {
  const everything = el(
    "button",
    { type: "button", "aria-current": Object.keys(key).length ? "false" : "true", onclick: () => go("runs") },
    "All runs",
  );
  if (!found.length) return [everything, el("p", {}, "No runs yet.")];
  return [everything, ...found.map((run) => entry(run, key, go))];
}

function entry(run, key, go) {
  const mine = keyOf(run);
  const current = Object.entries(mine).every(([name, value]) => key[name] === value);
  const waiting = run.rows_in - (run.accepted ?? 0) - (run.rejected ?? 0);
  const parts = [
    ["accepted", run.accepted ?? 0],
    ["rejected", run.rejected ?? 0],
    ["waiting", waiting],
  ];
  return el(
    "button",
    { type: "button", "aria-current": current ? "true" : "false", onclick: () => go("runs", mine) },
    el("strong", {}, run.replay ? "Replay" : run.interval_start.slice(0, 10)),
    ` ${state(run)}, ${number(run.rows_in)} pairs`,
    share(parts.map(([name, value]) => `${name} ${number(value)}`).join(", "), parts),
    el("small", {}, `${run.dag_run_id ?? run.replay ?? "capsfusion run"}, fusion ${run.fusion_id}`),
  );
}

function keyOf(run) {
  const { fusion_id, interval_start: start, interval_end: end } = run;
  if (run.dag_run_id) return { dag_run_id: run.dag_run_id, fusion_id };
  return run.replay ? { replay: run.replay, fusion_id } : { start, end, fusion_id };
}

function state(run) {
  if (run.units_failed) return `${number(run.units_failed)} units failed`;
  return run.units_loaded === run.units ? "loaded" : `${number(run.units_loaded)} of ${number(run.units)} units loaded`;
}
