// Charts of values by day as inline SVG: lines and stacked columns, with a legend. A click on a day calls open(day).
import { el, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [640, 180, 76, 24, 12];
const COLOURS = 7;
const SHORT = new Intl.NumberFormat("en", { notation: "compact" });

// series: [name, values]; values has a number for each day, or null for a gap.
// end: the upper end of the axis; by default, derived from the values.
export function lines(title, days, series, show, open, end = undefined) {
  const most = end ?? rounded(Math.max(0, ...series.flatMap(([, values]) => values)));
  const x = (at) => LEFT + ((at + 0.5) * (WIDTH - LEFT)) / days.length;
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * value) / most;
  const drawn = series.map(([, values], index) => {
    const known = values.map((value, at) => [at, value]).filter(([, value]) => value !== null);
    const points = known.map(([at, value]) => `${x(at)},${y(value)}`).join(" ");
    const dots = known.map(([at, value]) => svg("circle", { cx: x(at), cy: y(value), r: 3, class: colour(index) }));
    return svg("g", {}, svg("polyline", { points, class: `line ${colour(index)}` }), dots);
  });
  return chart(title, days, series, show, open, most, drawn);
}

export function stacks(title, days, series, show, open) {
  const whole = days.map((_, at) => series.reduce((sum, [, values]) => sum + values[at], 0));
  const most = rounded(Math.max(...whole));
  const step = (WIDTH - LEFT) / days.length;
  const drawn = days.map((_, at) => {
    let top = HEIGHT - BOTTOM;
    return series.map(([name, values], index) => {
      const height = ((HEIGHT - BOTTOM - TOP) * values[at]) / most;
      top -= height;
      const width = Math.max(1, Math.min(step - 2, 48));
      const kind = ["accepted", "rejected"].includes(name) ? name : colour(index);
      return svg("rect", { x: LEFT + (at + 0.5) * step - width / 2, y: top, width, height, class: kind });
    });
  });
  return chart(title, days, series, show, open, most, drawn.flat());
}

// A round upper end of an axis for values up to most. Its half is also round, because the axis shows it.
function rounded(most) {
  if (!most) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return unit * [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= most * 0.9999);
}

const colour = (index) => `series-${index % COLOURS}`;

function chart(title, days, series, show, open, most, drawn) {
  const step = (WIDTH - LEFT) / days.length;
  const axis = (value) => (value >= 1000 ? SHORT.format(value) : show(value));
  const grid = [0, 0.5, 1].flatMap((part) => {
    const y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * part;
    return [
      svg("line", { x1: LEFT, x2: WIDTH, y1: y, y2: y, class: "axis" }),
      svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, axis(most * part)),
    ];
  });
  const every = Math.ceil(days.length / 7);
  const dates = days.map((day, at) =>
    at % every === 0 && svg("text", { x: LEFT + (at + 0.5) * step, y: HEIGHT - 5, "text-anchor": "middle" }, day.slice(5)),
  );
  const told = (at) => series.filter(([, values]) => values[at] !== null).map(([name, values]) => `${name} ${show(values[at])}`);
  const reach = days.map((day, at) =>
    svg("rect", { x: LEFT + at * step, y: 0, width: step, height: HEIGHT, class: "reach", onclick: () => open(day) },
      svg("title", {}, `${day}: ${told(at).join(", ")}`)),
  );
  const label = `${title}: ${days.map((day, at) => `${day} ${told(at).join(", ")}`).join("; ")}`;
  const legend = series.map(([name], index) => {
    const kind = ["accepted", "rejected"].includes(name) ? name : colour(index);
    return el("li", {}, svg("svg", { viewBox: "0 0 10 10", class: "key", "aria-hidden": "true" }, svg("rect", { width: 10, height: 10, rx: 2, class: kind })), name);
  });
  return el("figure", { class: "trend" },
    el("figcaption", {}, title),
    el("ul", { class: "legend" }, legend),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, grid, drawn, dates, reach));
}
