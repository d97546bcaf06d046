// Elements, requests and links. Captions come from the open web, so text is never inserted as HTML.

// Makes an element, for example el("td", {class: "raw"}, "text", otherElement, …).
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

// Sets the value of a form's field. A value that a select does not offer, such as a model from an old address, becomes
// an option, so that the next search keeps it.
export function set(field, value) {
  if (field.matches("select")) {
    field.querySelector("option.extra")?.remove();
    const offered = [...field.options].some((option) => option.value === value);
    if (!offered) field.append(el("option", { class: "extra", value }, value));
  }
  field.value = value;
}

export class Problem extends Error {}

const ends = new Set(); // functions that each end one kind of request

// Makes a function that returns the signal for a new request. The function also aborts the previous request, so that an
// older answer never replaces a newer one.
export function newest() {
  let current = new AbortController();
  ends.add(() => current.abort());
  return () => {
    current.abort();
    current = new AbortController();
    return current.signal;
  };
}

// Ends all requests that a view has begun, so that no answer is drawn over the next view.
export function endRequests() {
  for (const end of ends) end();
}

// The app's answer as JSON. Throws a Problem with a message for the user; an AbortError passes through.
export function ask(path, parameters = {}, signal = undefined) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return send("GET", query ? `${path}?${query}` : path, undefined, signal);
}

// Like ask(), for any HTTP method. Sends object as JSON.
export async function send(method, path, object = undefined, signal = undefined) {
  const headers = { Accept: "application/json" };
  if (object !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, signal, headers, body: object && JSON.stringify(object) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("Airflow's server does not answer.");
  }
  if (answer.ok) return answer.json();
  const body = await answer.json().catch(() => ({}));
  signal?.throwIfAborted(); // catch() above also catches the AbortError
  const right = method === "GET" ? "read" : "edit";
  const known = {
    401: "Your session has ended: log in to Airflow again.",
    403: `You have no permission to ${right} the DAG capsfusion.`,
  };
  const problem = new Problem(known[answer.status] ?? said(body.detail) ?? `The server answered ${answer.status}.`);
  problem.status = answer.status;
  throw problem;
}

function said(detail) {
  if (!Array.isArray(detail)) return detail;
  return detail.map((each) => `${each.loc.slice(1).join(".")}: ${each.msg}`).join("; ");
}

// Characters that are invisible or change the direction of the text around them. They are shown as code points.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffd]/g;

// An element for a text. The text's direction (left-to-right or right-to-left) does not affect the text around it.
export const textOf = (value) => el("bdi", { dir: "auto" }, visible(value));

export function visible(value) {
  const parts = [];
  let end = 0;
  for (const match of value.matchAll(INVISIBLE)) {
    parts.push(value.slice(end, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(el("span", { class: "invisible" }, `U+${code}`));
    end = match.index + match[0].length;
  }
  parts.push(value.slice(end));
  return parts;
}

// A link to a page of Airflow, whose root is one level above the app.
export function airflowLink(path, label) {
  return outsideLink(new URL(`../${path}`, new URL(".", location.href)).href, label);
}

// A link out of the frame. Airflow's sandbox blocks such links, so the page around the frame opens the address.
export function outsideLink(href, label, newTab = false) {
  const follow = (event) => {
    if (window.parent === window) return;
    event.preventDefault();
    const outside = window.parent.document.createElement("a");
    outside.href = href;
    outside.rel = "noopener noreferrer";
    if (newTab || event.ctrlKey || event.metaKey || event.button === 1) outside.target = "_blank";
    window.parent.document.body.append(outside);
    outside.click();
    outside.remove();
  };
  const target = newTab ? { target: "_blank", rel: "noopener noreferrer" } : {};
  return el("a", { href, ...target, onclick: follow, onauxclick: follow }, label);
}

export function runLink(dagRunId, isReplay) {
  const dag = isReplay ? "capsfusion_replay" : "capsfusion";
  return airflowLink(`dags/${dag}/runs/${encodeURIComponent(dagRunId)}`, dagRunId);
}

export async function copy(text, button) {
  const area = el("textarea", { "aria-hidden": "true" });
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    // Browsers allow clipboard access only to pages served over https.
    area.value = text;
    button.after(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = done ? "Copied" : "Not copied: select the text instead";
  setTimeout(() => (button.textContent = label), 1500);
}

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
export const number = (value) => (value === null || value === undefined ? "–" : NUMBER.format(value));
export const counted = (count, one, more) => `${number(count)} ${count === 1 ? one : more}`;
export const percent = (part, whole) => (whole ? `${NUMBER.format((100 * part) / whole)}%` : "–");
export const shortModel = (model) => model.split("/").slice(-2).join("/");
export const time = (value) => (value ? `${value.slice(0, 16).replace("T", " ")} UTC` : "–");

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${NUMBER.format(seconds / 3600)} h` : `${NUMBER.format(seconds / 86400)} days`;
}
