// Airflow's own REST API, with the user's session and rights.
import { Problem } from "./dom.js";

export async function airflow(method, path, object = undefined) {
  const address = new URL(`../api/v2/${path}`, new URL(".", location.href));
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(address, { method, headers, body: object && JSON.stringify(object) });
  } catch {
    throw new Problem("Airflow's server does not answer.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const known = {
    401: "Your session has ended: log in to Airflow again.",
    403: "You have no permission in Airflow to do this.",
    404: "Airflow has no such DAG. Is it in the DAGs folder?",
  };
  const said = typeof body.detail === "string" ? body.detail : JSON.stringify(body.detail ?? answer.status);
  const problem = new Problem(known[answer.status] ?? `Airflow refused: ${said}`);
  problem.status = answer.status;
  throw problem;
}
