// The buttons "Replay these" and "Export these". Each starts a DAG run for the captions that match the filter.
import { airflow } from "./airflow.js";
import { Problem, airflowLink, ask, el, newest } from "./dom.js";
import { counted } from "./facets.js";
import { mayEdit } from "./judging.js";

const dialog = document.getElementById("start");
const [begin, beginCount] = [newest(), newest()];
// The parts of a filter that the DAGs accept in their Param filter.
const TAKEN = ["words", "within", "url", "pair_id", "reason", "flag", "shard", "day", "dag_run_id", "score"];
TAKEN.push("score_min", "score_max", "score_below");
const NUMBERS = ["score_min", "score_max", "score_below"];

const REPLAY = {
  dag: "capsfusion_replay",
  title: "Replay these",
  verdict: "rejected",
  about: "Fuses the pairs of these rejected captions again, and accepts the new captions that pass. If model, beams and other decoding settings are still the same, the replay only validates the old captions again, with the current rules.",
  fields: [
    { name: "model", label: "Model", placeholder: "from the settings" },
    { name: "num_beams", label: "Beams", type: "number", min: 1, max: 16, placeholder: "from the settings" },
    { name: "limit", label: "Maximum number of captions", type: "number", min: 1, placeholder: "all" },
  ],
};
const EXPORT = {
  dag: "capsfusion_export",
  title: "Export these",
  verdict: "accepted",
  about: "Writes these accepted captions as Parquet files with a manifest. If a pair has captions of several models, only the newest is exported.",
  fields: [
    { name: "export_to", label: "Folder", placeholder: "s3://bucket/prefix, or /a/shared/folder", required: true },
    { name: "columns", label: "More columns", placeholder: "names separated by commas, or all" },
    { name: "limit", label: "Maximum number of captions", type: "number", min: 1, placeholder: "all" },
  ],
};

// The buttons for the captions that the facets counted; no buttons for users who may only read.
export async function bulk(found, filter) {
  if (!(await mayEdit())) return [];
  return [REPLAY, EXPORT]
    .filter((kind) => found.verdicts[kind.verdict].captions !== 0 && (filter.verdict === "any" || filter.verdict === kind.verdict))
    .map((kind) => el("button", { type: "button", onclick: () => prepare(kind, found, filter) }, `${kind.title}…`));
}

export const closeStart = () => dialog.close();

async function prepare(kind, found, filter) {
  const signal = begin();
  const state = await airflow("GET", `dags/${kind.dag}`).catch((error) => {
    if (error instanceof Problem) return { problem: error.message };
    throw error;
  });
  if (signal.aborted) return;
  const models = found.fusions.map(({ value }) => value);
  const chosen = filter.fusion_id || (models.length === 1 ? models[0] : "");
  const matching = el("p", { role: "status" });
  const tell = (number) => matching.replaceChildren(el("strong", {}, number), ` ${kind.verdict} captions match.`);
  const model = el("select", { name: "fusion_id", required: kind === REPLAY });
  if (!chosen) model.append(el("option", { value: "" }, kind === REPLAY ? "choose one" : "any"));
  model.append(...(filter.fusion_id ? [filter.fusion_id] : models).map((id) => el("option", { value: id, selected: id === chosen }, id)));
  const params = el("pre", { "aria-label": "Params of the run" });
  const said = el("p", { role: "alert" });
  const conf = () => paramsOf(kind, form, filter);
  const update = () => (params.textContent = JSON.stringify(conf(), null, 2));
  const count = async () => {
    const signal = beginCount();
    tell("…");
    const asked = { ...filter, verdict: kind.verdict, fusion_id: model.value };
    try {
      tell(counted((await ask("api/facets", asked, signal)).total));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      matching.replaceChildren(el("span", { class: "problem" }, error.message));
    }
  };
  const form = el(
    "form",
    { method: "dialog", oninput: update },
    el("h2", {}, kind.title),
    el("p", {}, kind.about),
    matching,
    el("div", { class: "fields" },
      el("label", {}, "Captions of fusion", model),
      kind.fields.map(({ name, label, ...attributes }) => el("label", {}, label, el("input", { name, ...attributes })))),
    state.is_paused && el("label", { class: "tick" },
      el("input", { type: "checkbox", name: "unpause", checked: true }), `The DAG ${kind.dag} is paused: unpause it`),
    el("details", {}, el("summary", {}, `What will run: the DAG ${kind.dag}, with these Params`), params),
    said,
    el("p", { class: "actions" },
      el("button", { type: "submit", class: "main", disabled: Boolean(state.problem) }, kind.title),
      el("button", { type: "button", onclick: () => dialog.close() }, "Cancel")),
  );
  if (state.problem) said.append(el("span", { class: "problem" }, state.problem));
  model.addEventListener("change", count);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const start = form.querySelector("button.main");
    start.disabled = true; // a second click would start a second run
    said.replaceChildren("Starting…");
    try {
      if (form.elements.unpause?.checked) await airflow("PATCH", `dags/${kind.dag}?update_mask=is_paused`, { is_paused: false });
      const run = await airflow("POST", `dags/${kind.dag}/dagRuns`, { logical_date: null, conf: conf() });
      const path = `dags/${kind.dag}/runs/${encodeURIComponent(run.dag_run_id)}`;
      const link = airflowLink(path, run.dag_run_id);
      said.replaceChildren("Started: ", link);
      start.remove();
      link.focus(); // the button had the focus
    } catch (error) {
      start.disabled = false;
      if (!(error instanceof Problem)) throw error;
      said.replaceChildren(el("span", { class: "problem" }, error.message));
    }
  });
  update();
  dialog.replaceChildren(form);
  dialog.showModal();
  await count();
}

function paramsOf(kind, form, filter) {
  const given = (name) => form.elements[name]?.value.trim() ?? "";
  const fusion = given("fusion_id");
  const taken = TAKEN.filter((name) => filter[name] !== undefined && filter[name] !== "");
  const asked = Object.fromEntries(taken.map((name) => [name, NUMBERS.includes(name) ? Number(filter[name]) : filter[name]]));
  const params = { filter: kind === EXPORT && fusion ? { ...asked, fusion_id: fusion } : asked };
  if (kind === REPLAY) params.fusion_id = fusion;
  for (const { name, type } of kind.fields)
    if (given(name)) params[name] = type === "number" ? Number(given(name)) : given(name);
  return params;
}
