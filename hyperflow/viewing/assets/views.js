// Draws a run from data: on the page, which asks for it again and again, and in a report, where it is frozen.
//
// The data is what viewing/views.py makes. It comes from programs, so it may hold anything: it becomes text
// (textContent), never markup; what goes to plotly passes `plain`, because plotly reads a little HTML itself.
// In a report this file is a module of the document, after plotly, and `showFrozen()` is called: it draws what stands in
// <script type="application/json" id="frozen">.

const SHAPES = ["#3b82f6", "#f59e0b", "#10b981", "#a78bfa", "#ef6f6c", "#22c3dd", "#c9a227", "#ec73b8", "#84b547", "#8d8dff", "#d98a54", "#8b97a8"];

// ---- texts ----------------------------------------------------------------------------------------------------------

/** Return a text in which what would act unseen (controls, changes of direction) stands as an escape. */
export function visible(text) {
  return String(text ?? "").replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]|[\ud800-\udbff](?![\udc00-\udfff])/g,
    (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}

/** Return a text as plotly is to show it. */
export function plain(text, longest = 80) {
  const shown = visible(text).replace(/\s+/g, " ");
  const cut = shown.length > longest ? shown.slice(0, longest - 1) + "…" : shown;
  return cut.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** Make an element; a child is another one or a text. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "value") made.value = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((it) => it !== null && it !== undefined).map((it) => (it instanceof Node ? it : visible(it))));
  return made;
}

export function seconds(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size >= 3600) return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
  if (size >= 60) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  for (const [unit, one] of [["s", 1], ["ms", 1e-3]]) if (size >= one) return `${+(value / one).toPrecision(3)} ${unit}`;
  return size ? `${+(value / 1e-6).toPrecision(3)} µs` : "0 s";
}

export function bytes(value) {
  if (!value) return "";
  const step = Math.min(Math.floor(Math.log(value) / Math.log(1000)), 4);
  return `${+(value / 1000 ** step).toPrecision(3)} ${["B", "kB", "MB", "GB", "TB"][step]}`;
}

export const count = (value) => Number(value ?? 0).toLocaleString("en");

export const clock = (moment) => (moment ? new Date(moment * 1000).toLocaleString("sv") : "");

export function badge(state) {
  return el("span", { class: `badge ${/^[a-z]+/.exec(state)?.[0] ?? ""}` }, state);
}

// ---- charts ---------------------------------------------------------------------------------------------------------

const colours = new Map(); // by name, the same for as long as the page is open

function colourOf(name) {
  if (name === "(others)") return "#8b97a8";
  if (!colours.has(name)) colours.set(name, SHAPES[colours.size % (SHAPES.length - 1)]);
  return colours.get(name);
}

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layout(more) {
  const axis = { gridcolor: variable("--line"), zerolinecolor: variable("--line"), linecolor: variable("--line") };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    font: { family: variable("--sans"), size: 12, color: variable("--quiet") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 12, t: 8, b: 30 }, showlegend: false,
    hoverlabel: { bgcolor: variable("--card"), bordercolor: variable("--quiet"), font: { color: variable("--text"), size: 12.5 }, align: "left" },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const SETTINGS = { displayModeBar: false, responsive: true, scrollZoom: false, showTips: false };

function draw(chart, traces, shape, label) {
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", visible(label));
  return globalThis.Plotly.react(chart, traces, shape, SETTINGS);
}

const STEPS = [1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60,
  120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000];

/** Return the ticks of an axis of time: seconds since the begin, as people read them. */
function timeAxis(from, to, width) {
  const most = Math.max(Math.floor(width / 110), 2);
  const step = STEPS.find((it) => (to - from) / it <= most) ?? (to - from) / most;
  const values = [];
  for (let number = Math.ceil(from / step - 1e-9); number * step <= to + step * 1e-9 && values.length < 50; number++) values.push(number * step);
  return { range: [from, to], tickmode: "array", tickvals: values, ticktext: values.map((it) => since(it, step)), type: "linear" };
}

function since(value, step) {
  if (Math.abs(value) < step / 2) return "0";
  if (step >= 60 || value >= 3600) {
    const whole = Math.floor(value + 1e-6), pad = (it) => String(it).padStart(2, "0");
    const rest = step < 1 ? (value % 1).toFixed(digits(step)).slice(1) : "";
    return `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}${rest}`;
  }
  if (step < 1e-3 && value < 1) return `${+(value * 1000).toFixed(digits(step) - 3)} ms`;
  return `${value.toFixed(digits(step))} s`;
}

const digits = (step) => Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));

/** Return the room that labels need, in pixels. */
const roomFor = (labels, size = 12) => Math.min(Math.max(56, 16 + 0.62 * size * Math.max(0, ...labels.map((it) => it.length))), 190);

export function drawUtilisation(chart, data) {
  const wide = chart.clientWidth || 900;
  const accent = variable("--accent"), nodes = data.nodes, heat = nodes.length > 0;
  const rows = Math.min(Math.max(nodes.length * 22, 30), 620), total = 150;
  const height = total + (heat ? rows + 50 : 0) + 30;
  const split = heat ? rows / (rows + total + 50) : 0;
  const labels = nodes.map((it) => plain(it.node + (it.gpus ? `, ${it.gpus} GPU${it.gpus > 1 ? "s" : ""}` : "") + (["up", "ended", ""].includes(it.state) ? "" : ` (${it.state})`), 34));
  const traces = [
    { x: data.bins, y: data.there, name: "there", mode: "lines", line: { color: variable("--quiet"), width: 1.5, dash: "dot", shape: "hvh" }, hovertemplate: "%{y:.1f} CPUs there<extra></extra>" },
    { x: data.bins, y: data.busy, name: "busy", mode: "lines", fill: "tozeroy", line: { color: accent, width: 1.5, shape: "hvh" }, fillcolor: variable("--accent-soft"), hovertemplate: "%{y:.1f} CPUs busy<extra></extra>" },
  ];
  if (heat) {
    traces.push({
      type: "heatmap", x: data.bins, y: nodes.map((_, place) => place), z: nodes.map((it) => it.busy), yaxis: "y2", zmin: 0, zmax: 1, showscale: false,
      hoverongaps: false, colorscale: [[0, variable("--idle")], [1, accent]], ygap: 3,
      text: nodes.map((_, place) => data.bins.map(() => labels[place])),
      hovertemplate: "%{text}: %{z:.0%} of its CPUs busy<extra></extra>",
    });
  }
  const marks = data.marks.filter((it) => !["resumed", "draining"].includes(it.state) && it.t >= data.from && it.t <= data.to);
  const place = new Map(nodes.map((it, number) => [it.node, number]));
  const seen = marks.filter((it) => place.has(it.node));
  traces.push({
    x: seen.map((it) => it.t), y: seen.map((it) => place.get(it.node)), yaxis: "y2", mode: "markers",
    marker: { // one that was given back is no trouble
      symbol: seen.map((it) => (it.state === "left" ? "triangle-left" : "x")), size: 9, line: { color: variable("--card"), width: 1.5 },
      color: seen.map((it) => variable(it.state === "left" ? "--quiet" : "--bad")),
    },
    text: seen.map((it) => `${plain(it.node)} ${plain(it.state)}: ${plain(it.cause, 120)}`), hovertemplate: "%{text}<extra></extra>",
  });
  const shape = layout({
    height, hovermode: "closest", margin: { l: roomFor(labels), r: 30, t: 8, b: 30 },
    xaxis: { ...timeAxis(data.from, data.to, wide), anchor: heat ? "y2" : "y", fixedrange: true },
    yaxis: { domain: [split ? split + 50 / (rows + total + 50) * 0.6 : 0, 1], rangemode: "tozero", title: { text: "CPUs" }, fixedrange: true },
    yaxis2: {
      domain: [0, split], autorange: false, range: [nodes.length - 0.5, -0.5], tickmode: "array", fixedrange: true, showgrid: false, zeroline: false,
      tickvals: nodes.map((_, number) => number), ticktext: labels,
    },
    shapes: marks.filter((it) => !it.node).map((it) => ({ type: "line", x0: it.t, x1: it.t, y0: 0, y1: 1, yref: "paper", line: { color: variable("--warn"), width: 1.5, dash: "dash" } })),
  });
  const share = nodes.map((it) => `${it.node} ${it.state}`).slice(0, 20).join(", ");
  return draw(chart, traces, shape, `CPUs busy over time, and the share of each node's CPUs: ${share}`);
}

/** Draw who did what when; `onzoom(from, to)` is called when somebody has dragged, or double clicked (null). */
export function drawGantt(chart, data, { onzoom = null, onpick = null } = {}) {
  const wide = chart.clientWidth || 900;
  const traces = data.groups.map((name, group) => {
    const of = [];
    data.group.forEach((it, place) => it === group && of.push(place));
    const pick = (column) => of.map((place) => column[place]);
    const colour = colourOf(name);
    return {
      type: "bar", orientation: "h", name: plain(name), base: pick(data.start), x: pick(data.seconds), y: pick(data.lane), width: 0.82,
      customdata: data.exact ? pick(data.task) : null,
      text: of.map((place) => boxText(data, place)), textposition: "none", hovertemplate: "%{text}<extra></extra>",
      marker: {
        color: colour, opacity: of.map((place) => 0.3 + 0.7 * data.busy[place]),
        line: { width: of.map((place) => (data.failed[place] ? 1.5 : 0.4)), color: of.map((place) => (data.failed[place] ? variable("--bad") : colour)) },
        pattern: { shape: of.map((place) => (data.failed[place] ? "/" : "")), fgcolor: variable("--bad"), size: 6, solidity: 0.4 },
      },
    };
  });
  const lanes = data.lanes.length, lane = lanes > 30 ? 13 : lanes > 8 ? 20 : 28;
  const labels = data.lanes.map((it) => plain(it, 28)), size = lanes > 30 ? 9.5 : 12;
  const shape = layout({
    height: Math.max(lanes * lane, 60) + 46, margin: { l: roomFor(labels, size), r: 30, t: 8, b: 30 }, barmode: "overlay", bargap: 0, hovermode: "closest", dragmode: "zoom",
    xaxis: { ...timeAxis(data.from, data.to, wide), zeroline: false },
    yaxis: { autorange: false, range: [lanes - 0.5, -0.5], tickmode: "array", tickvals: data.lanes.map((_, place) => place), ticktext: labels, tickfont: { size }, fixedrange: true, showgrid: false, zeroline: false },
  });
  const what = data.exact ? `${count(data.evaluations)} evaluations` : `${count(data.evaluations)} evaluations in bins`;
  const drawn = draw(chart, traces, shape, `What ${lanes} workers did from ${seconds(data.from)} to ${seconds(data.to)}: ${what}`);
  if (!chart.dataset.bound && (onzoom || onpick)) {
    chart.dataset.bound = "yes";
    chart.on("plotly_relayout", (change) => {
      const [from, to] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      if (from !== undefined && to !== undefined) onzoom?.(from, to);
      else if (change["xaxis.autorange"]) onzoom?.(null, null);
    });
    chart.on("plotly_click", (event) => event.points[0]?.customdata && onpick?.(event.points[0].customdata));
  }
  return drawn;
}

function boxText(data, place) {
  const took = seconds(data.seconds[place]);
  if (data.exact) return `${plain(data.task[place])} ${plain(data.name[place])}<br>${took}, ${plain(data.outcome[place])}`;
  const failed = data.failed[place] ? `, ${count(data.failed[place])} failed` : "";
  return `${plain(data.groups[data.group[place]])}: ${count(data.count[place])} begun in ${took}${failed}<br>${Math.round(100 * data.busy[place])}% busy`;
}

export function legend(data) {
  const items = data.groups.map((name) => {
    const mark = el("i");
    mark.style.background = colourOf(name);
    return el("li", {}, mark, name);
  });
  return el("ul", { class: "legend" }, ...items, el("li", {}, el("i", { class: "torn" }), "failed"));
}

/** Draw points that a program gave to `plot`. */
export function drawPoints(chart, data) {
  const given = new Set(data.given), over = given.has("x") ? data.x : data.t;
  const coloured = given.has("x") && given.has("y") && given.has("value");
  const values = coloured ? data.y : (given.has("y") ? data.y : data.value);
  const ordered = over.every((it, place) => !place || it === null || over[place - 1] === null || it >= over[place - 1]);
  const accent = variable("--accent");
  const marker = coloured
    ? { color: data.value, colorscale: "Viridis", showscale: true, size: 8, colorbar: { thickness: 10, outlinewidth: 0, title: { text: "value", side: "right" } } }
    : { color: accent, size: over.length > 300 ? 3 : 6 };
  const trace = { x: over, y: values, mode: coloured || !ordered ? "markers" : "lines+markers", marker, line: { color: accent, width: 1.6 } };
  trace.hovertemplate = coloured ? "x %{x}<br>y %{y}<br>value %{marker.color}<extra></extra>" : "%{x}, %{y}<extra></extra>";
  const shape = layout({
    height: 270, hovermode: "closest", margin: { l: 58, r: coloured ? 60 : 12, t: 10, b: 40 },
    xaxis: { title: { text: given.has("x") ? "x" : "seconds" }, zeroline: false, type: "linear" },
    yaxis: { title: { text: given.has("y") ? "y" : "value" }, zeroline: false, type: "linear" },
  });
  return draw(chart, [trace], shape, `${data.name}: ${count(data.total)} points`);
}

// ---- tables ---------------------------------------------------------------------------------------------------------

/** Return a table; a column is [heading, cell(row), {number, sort(row), wide}]. Headings with `sort` are buttons. */
export function table(columns, rows, { caption, stack = true, key = null } = {}) {
  let order = null;
  const body = el("tbody");
  const heads = columns.map(([heading, , { number = false, sort = null } = {}], place) => {
    const cell = el("th", { scope: "col", class: number ? "number" : null });
    if (!sort) cell.append(heading);
    else cell.append(el("button", { type: "button", onclick: () => by(place) }, heading));
    return cell;
  });
  function by(place) {
    order = { place, down: order?.place === place ? !order.down : true };
    heads.forEach((it, other) => (other === place ? it.setAttribute("aria-sort", order.down ? "descending" : "ascending") : it.removeAttribute("aria-sort")));
    if (key) table.orders.set(key, order);
    fill();
  }
  function fill() {
    const sorted = [...rows];
    if (order) {
      const of = columns[order.place][2].sort, sign = order.down ? -1 : 1;
      sorted.sort((one, other) => sign * (of(one) < of(other) ? -1 : of(one) > of(other) ? 1 : 0));
    }
    body.replaceChildren(...sorted.map((row) => el("tr", {}, ...columns.map(([heading, cell, { number = false, wide = false, kind = "" } = {}]) =>
      el("td", { class: [number ? "number" : "", wide ? "wide" : "", kind].filter(Boolean).join(" ") || null, "data-head": wide ? null : heading }, cell(row))))));
  }
  const known = key && table.orders.get(key);
  if (known) { order = { ...known, down: !known.down }; by(known.place); } else fill();
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table: ${caption}` },
    el("table", { class: stack ? "stack" : null }, el("caption", { class: "skip" }, caption), el("thead", {}, el("tr", {}, ...heads)), body));
}
table.orders = new Map();

export function functionsTable(rows) {
  const most = Math.max(...rows.map((it) => it.held), 1e-9);
  const moved = rows.some((it) => it.read || it.written);
  const number = (heading, of, shown = (it) => count(of(it)) ) => [heading, (it) => shown(it), { number: true, sort: of }];
  return table([
    ["Function or name", (it) => [it.name, it.function !== it.name ? el("span", { class: "quiet small" }, ` ${it.function}`) : null], { wide: true, kind: "name", sort: (it) => it.name }],
    number("Done", (it) => it.done),
    number("Running", (it) => it.running, (it) => (it.running ? count(it.running) : "")),
    number("Waiting", (it) => it.waiting, (it) => (it.waiting ? count(it.waiting) : "")),
    number("Failed", (it) => it.failed + it.retried, (it) => (it.failed + it.retried ? count(it.failed + it.retried) : "")),
    number("Median", (it) => it.median, (it) => seconds(it.median)),
    number("95 %", (it) => it.tail, (it) => seconds(it.tail)),
    number("CPUs", (it) => it.cpus),
    number("Memory", (it) => it.memory, (it) => bytes(it.memory)),
    ...(moved ? [number("Read", (it) => it.read, (it) => bytes(it.read)), number("Written", (it) => it.written, (it) => bytes(it.written))] : []),
    ["CPU time held", (it) => [seconds(it.held), " ", meter(it.held / most)], { number: true, sort: (it) => it.held }],
  ], rows, { caption: "Functions: how often, how long, with what", key: "functions" });
}

function meter(share) {
  const inner = el("i");
  inner.style.width = `${Math.round(100 * Math.min(Math.max(share, 0), 1))}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, inner);
}

export function slowestTable(rows) {
  return table([
    ["Evaluation", (it) => `#${it.evaluation}`, { kind: "whole" }],
    ["Function or name", (it) => it.name, { wide: true, kind: "name" }],
    ["Took", (it) => seconds(it.seconds), { number: true }],
    ["Began after", (it) => seconds(it.start), { number: true }],
    ["Worker", (it) => it.worker],
    ["", (it) => badge(it.outcome)],
  ], rows, { caption: "The evaluations that took longest" });
}

const SHOWN_FAILURES = 12;

/** Return the failures; `more(evaluation)` gives an element with what else is known, if somebody opens one. */
export function failureList(data, more = null, opened = new Set()) {
  const items = data.shown.map((it) => {
    const key = `${it.evaluation} ${it.t}`;
    const error = String(it.error), [line] = error.split("\n");
    const room = el("div");
    const item = el("details", { open: opened.has(key) },
      el("summary", {}, el("strong", {}, `#${it.evaluation} `), el("span", { class: "error" }, line.length > 200 ? line.slice(0, 199) + "…" : line),
        el("span", { class: "quiet small" }, ` ${it.name}${it.worker ? ` on ${it.worker}` : ""}, after ${seconds(it.t)}${it.retried ? ", then tried again" : ""}`)),
      el("p", { class: "small" }, "Call: ", el("code", {}, it.call || it.name)), error === line && line.length <= 200 ? null : el("pre", {}, error), room);
    const fill = () => { if (more && !room.hasChildNodes()) more(it.evaluation).then((made) => room.replaceChildren(made)); };
    item.addEventListener("toggle", () => { item.open ? opened.add(key) : opened.delete(key); if (item.open) fill(); });
    if (item.open) fill();
    return item;
  });
  const hidden = items.slice(SHOWN_FAILURES).filter((it) => !it.open);
  if (hidden.length) {
    hidden.forEach((it) => { it.hidden = !opened.all; });
    const all = el("button", { type: "button", onclick: () => { opened.all = true; hidden.forEach((it) => { it.hidden = false; }); hidden[0].querySelector("summary").focus(); all.remove(); } }, `Show ${count(hidden.length)} more`);
    if (!opened.all) items.push(el("p", {}, all));
  }
  if (data.total > data.shown.length) items.push(el("p", { class: "quiet small" }, `${count(data.total)} tries have failed in all; shown are the newest ${count(data.shown.length)} of the ${count(data.kept)} that were kept.`));
  return items.length ? el("div", {}, ...items) : el("p", { class: "quiet" }, "Nothing has failed.");
}

// ---- a whole run ----------------------------------------------------------------------------------------------------

export function card(title, id, note = "", tools = []) {
  const body = el("div"), said = el("span", { class: "note" }, note);
  const made = el("section", { class: "card", id, "aria-labelledby": `${id}-title` },
    el("header", {}, el("h2", { id: `${id}-title` }, title), said, tools.length ? el("div", { class: "tools" }, ...tools) : null), body);
  return { made, body, note: said };
}

export function heading(about) {
  const tiles = about.tiles.map((it) => el("div", { class: `tile${it.bad ? " bad" : ""}` }, el("dt", {}, it.name), el("dd", {}, it.value, it.note ? el("small", {}, it.note) : null)));
  return el("div", {}, el("div", { class: "title" }, el("h1", {}, about.title), badge(about.state)),
    el("p", { class: "under" }, about.headline), el("dl", { class: "tiles" }, ...tiles),
    about.note ? el("p", { class: "card error" }, about.note) : null);
}

export function facts(pairs) {
  return el("dl", { class: "facts" }, ...pairs.filter(([, text]) => text !== "").flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}

/** Draw a run as it is in a report: nothing of it changes any more. */
export function showFrozen(root = document.querySelector("main"), source = document.getElementById("frozen")) {
  const data = JSON.parse(source.textContent);
  const cards = {};
  root.replaceChildren(heading(data.about));
  const add = (title, id, note) => { cards[id] = card(title, id, note); root.append(cards[id].made); return cards[id].body; };
  add("About", "about").append(facts(data.about.facts));
  for (const extra of data.extra ?? []) add(extra.title, extra.id ?? `x${Math.random().toString(36).slice(2)}`, extra.note).append(extra.facts ? facts(extra.facts) : el("pre", {}, extra.text ?? ""));
  const charts = [];
  if (data.utilisation) {
    const chart = el("div", { class: "chart" });
    add("Utilisation", "utilisation").append(chart);
    charts.push(() => drawUtilisation(chart, data.utilisation));
  }
  if (data.gantt) {
    const chart = el("div", { class: "chart" }), keys = el("div");
    add("Evaluations", "evaluations", ganttNote(data.gantt)).append(chart, keys);
    charts.push(() => { const drawn = drawGantt(chart, data.gantt); keys.replaceChildren(legend(data.gantt)); return drawn; });
  }
  if (data.functions) add("Functions", "functions").append(functionsTable(data.functions));
  if (data.slowest) add("Slowest evaluations", "slowest").append(slowestTable(data.slowest));
  if (data.failures) add("Failures", "failures").append(failureList(data.failures));
  if (data.drawings?.length) charts.push(...drawAll(add("What the program drew", "drawings"), data.drawings, (it) => it.data));
  const all = () => charts.forEach((one) => one());
  all();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
}

/** Put drawings into a room; return what draws them. `picture(drawing)` is where a picture is. */
export function drawAll(room, drawings, picture) {
  const charts = [];
  room.replaceChildren(el("div", { class: "drawings" }, ...drawings.map((it) => {
    const chart = it.kind === "picture" ? el("img", { src: picture(it), alt: `${it.name}, as the program drew it` }) : el("div", { class: "chart" });
    if (it.kind !== "picture") charts.push(() => drawPoints(chart, it));
    return el("figure", {}, el("figcaption", {}, it.name), chart);
  })));
  return charts;
}

export function ganttNote(data) {
  const lanes = data.all_lanes > data.lanes.length ? `workers ${data.first + 1} to ${data.first + data.lanes.length} of ${count(data.all_lanes)}` : `${count(data.all_lanes)} workers`;
  const what = data.exact ? `${count(data.evaluations)} evaluations` : `${count(data.evaluations)} evaluations, in bins: zoom in for each`;
  return `${what}; ${lanes}`;
}
