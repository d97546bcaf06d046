// Bar charts as HTML lists, and column charts as inline SVG. The SVG also contains its numbers, for screen readers.
import { el, number, svg } from "./dom.js";

const WIDTH = 360;

// rows: [label, value, class, whether the value is a part of the row above]. All bars have the same scale.
export function bars(title, rows) {
  const most = Math.max(1, ...rows.map(([, value]) => value ?? 0));
  const drawn = rows.map(([label, value, kind, isPart]) => {
    const bar = el("span", { class: `length ${kind ?? "bar"}` });
    bar.style.setProperty("--share", (value ?? 0) / most);
    return el(
      "li",
      { class: isPart && "part" },
      el("span", { class: "name" }, label),
      " ",
      el("span", { class: "reaching" }, value ? bar : null, el("span", { class: "count" }, number(value))),
    );
  });
  return el("figure", {}, el("figcaption", {}, title), el("ul", { class: "bars" }, drawn));
}

// values: [label, value] of each column; marks: labels under the axis, as [position from 0 to 1, text].
export function columns(title, values, marks) {
  const [height, bottom, top] = [150, 20, 16];
  const most = Math.max(...values.map(([, value]) => value), 0);
  const width = Math.min(WIDTH / Math.max(values.length, 1), 60);
  const drawn = values.map(([label, value], index) => {
    const tall = most ? ((height - bottom - top) * value) / most : 0;
    const place = { x: index * width + 1, width: Math.max(1, width - 2) };
    return svg(
      "g",
      {},
      svg("title", {}, `${label}: ${number(value)}`),
      svg("rect", { ...place, y: top, height: height - bottom - top, class: "reach" }),
      svg("rect", { ...place, y: height - bottom - tall, height: tall, class: "bar" }),
    );
  });
  drawn.push(svg("line", { x1: 0, x2: WIDTH, y1: height - bottom, y2: height - bottom, class: "axis" }));
  drawn.push(svg("text", { x: 0, y: 11 }, `highest: ${number(most)}`));
  for (const [at, text] of marks) {
    const anchor = at === 0 ? "start" : at === 1 ? "end" : "middle";
    drawn.push(svg("text", { x: at * WIDTH, y: height - 5, "text-anchor": anchor }, text));
  }
  return figure(
    title,
    [WIDTH, height],
    drawn,
    values.map(([label, value]) => `${label} ${number(value)}`),
  );
}

// One bar, divided into parts: [class, value].
export function share(label, parts) {
  const whole = parts.reduce((sum, [, value]) => sum + value, 0) || 1;
  let x = 0;
  const drawn = parts.map(([kind, value]) => {
    const rect = svg("rect", { x, y: 0, width: (100 * value) / whole, height: 8, class: kind });
    x += (100 * value) / whole;
    return rect;
  });
  return svg(
    "svg",
    { viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": label, class: "share" },
    drawn,
  );
}

function figure(title, [width, height], drawn, described) {
  const label = `${title}: ${described.join(", ")}`;
  return el(
    "figure",
    {},
    el("figcaption", {}, title),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, drawn),
  );
}
