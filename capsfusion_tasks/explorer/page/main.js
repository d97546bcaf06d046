// The page: the current view, its state in the address, and Airflow's colours.
import { closeStart } from "./bulk.js";
import { leaveCaption } from "./caption.js";
import { listKeys, showCaptions } from "./captions.js";
import { endRequests } from "./dom.js";
import { showRuns } from "./runs.js";
import { showTrends } from "./trends.js";

const VIEWS = { captions: showCaptions, runs: showRuns, trends: showTrends };
const MARK = "#captions?"; // in the address of Airflow's page, the view's state follows this mark

// In the tab of a run, all views show this run only.
const { dag, dag_run_id } = Object.fromEntries(new URLSearchParams(location.search));
const tab = dag === undefined ? {} : { dag, dag_run_id };

function go(view, parameters = {}) {
  history.pushState(null, "", query({ view, ...parameters, ...tab }));
  show();
}

// Writes the open caption into the address. null: no caption is open.
function note(row) {
  const { caption: _, ...others } = Object.fromEntries(new URLSearchParams(location.search));
  const caption = row && `${row.pair_id} ${row.fusion_id}`;
  history.replaceState(null, "", query({ ...others, caption }));
  tell();
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return `?${new URLSearchParams(given)}`;
}

function show() {
  endRequests();
  leaveCaption();
  closeStart();
  const parameters = Object.fromEntries(new URLSearchParams(location.search));
  const view = parameters.view in VIEWS ? parameters.view : "captions";
  for (const name of Object.keys(VIEWS)) document.getElementById(name).hidden = name !== view;
  for (const button of document.querySelectorAll("nav button")) {
    button.setAttribute("aria-current", button.dataset.view === view ? "page" : "false");
  }
  tell();
  const { view: _, dag: ofTab, ...asked } = parameters;
  VIEWS[view](asked, { go, note }, ofTab, tab);
}

// The window of Airflow's page that shows the view in a frame; null outside Airflow.
function around() {
  try {
    return window.parent === window || !window.parent.document ? null : window.parent;
  } catch {
    return null; // the page around the frame has another origin
  }
}

// Writes the frame's state into the address of Airflow's page, so that a user can share the address or reload the page.
function tell() {
  const outer = around();
  if (!outer) return;
  const { pathname, search } = outer.location;
  outer.history.replaceState(outer.history.state, "", `${pathname}${search}${MARK}${location.search.slice(1)}`);
}

function recall() {
  const state = around()?.location.hash ?? "";
  if (!state.startsWith(MARK)) return;
  const asked = Object.fromEntries(new URLSearchParams(state.slice(MARK.length)));
  // If a user opens this address in the tab of another run, ignore the state.
  if (asked.dag === dag && asked.dag_run_id === dag_run_id || dag === undefined && !asked.dag)
    history.replaceState(null, "", query({ ...asked, ...tab }));
}

// A class of Airflow's root element says which colours it uses. Outside Airflow, use the system's colours.
function follow_colours() {
  const outer = around()?.document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const said = outer && ["dark", "light"].find((name) => outer.classList.contains(name));
    document.documentElement.dataset.theme = said ?? (system.matches ? "dark" : "light");
  };
  apply();
  system.addEventListener("change", apply);
  if (outer) new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class"] });
}

follow_colours();
recall();
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => go(button.dataset.view));
}
document.addEventListener("keydown", (event) => {
  if (!document.getElementById("captions").hidden) listKeys(event);
});
addEventListener("popstate", show);
window.focus(); // otherwise, the page around the frame gets the keys
show();
