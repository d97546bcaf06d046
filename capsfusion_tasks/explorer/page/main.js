// The page: the current view, its state in the address, and Airflow's colours.
import { showCaptions, captionKeys } from "./captions.js";
import { showRuns } from "./runs.js";

const VIEWS = { captions: showCaptions, runs: showRuns };

// In the tab of a run, all views show this run only.
const { dag, dag_run_id } = Object.fromEntries(new URLSearchParams(location.search));
const tab = dag === undefined ? {} : { dag, dag_run_id };

function go(view, parameters = {}) {
  const given = Object.entries({ ...parameters, ...tab }).filter(
    ([, value]) => value !== "" && value !== null && value !== undefined,
  );
  history.replaceState(null, "", `?${new URLSearchParams([["view", view], ...given])}`);
  show();
}

function show() {
  const parameters = Object.fromEntries(new URLSearchParams(location.search));
  const view = parameters.view in VIEWS ? parameters.view : "captions";
  for (const name of Object.keys(VIEWS)) document.getElementById(name).hidden = name !== view;
  for (const button of document.querySelectorAll("nav button")) {
    button.setAttribute("aria-current", button.dataset.view === view ? "page" : "false");
  }
  const { view: _, dag: ofTab, ...asked } = parameters;
  VIEWS[view](asked, go, ofTab);
}

// Airflow's class on its root element tells its colours; outside Airflow, use the system's.
function follow_colours() {
  let around = null;
  try {
    around = window.parent === window ? null : window.parent.document.documentElement;
  } catch {
    // The page around the frame has another origin.
  }
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const said = around && ["dark", "light"].find((name) => around.classList.contains(name));
    document.documentElement.dataset.theme = said ?? (system.matches ? "dark" : "light");
  };
  apply();
  system.addEventListener("change", apply);
  if (around) new MutationObserver(apply).observe(around, { attributes: true, attributeFilter: ["class"] });
}

follow_colours();
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => go(button.dataset.view));
}
document.addEventListener("keydown", (event) => {
  if (!document.getElementById("captions").hidden) captionKeys(event);
});
show();
