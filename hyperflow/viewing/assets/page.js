// The page: asks the server every other second, shows what has come, and gives orders.

import {
  badge, bytes, card, clock, count, drawAll, drawGantt, drawUtilisation, el, facts, failureList, functionsTable, ganttNote, heading, legend, seconds,
  slowestTable, table, visible,
} from "/assets/views.js";

const PAUSE = 1500;
const main = document.getElementById("main"), link = document.getElementById("link"), said = document.getElementById("said");
const token = document.querySelector('meta[name="token"]').content;

history.replaceState(null, "", location.pathname + location.hash); // the token is a cookie by now

class Refused extends Error {}

async function ask(path, parameters = {}) {
  const known = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const answer = await fetch(`/api/${path}?${new URLSearchParams(known)}`);
  return read(answer);
}

async function read(answer) {
  if ((answer.headers.get("Content-Type") ?? "").startsWith("application/json")) {
    const told = await answer.json();
    if (!answer.ok || told.error !== undefined) throw new Refused(told.error);
    return told;
  }
  throw new Refused(await answer.text());
}

async function give(order) {
  const answer = await fetch("/api/order", { method: "POST", headers: { "X-Hyperflow-Token": token, "Content-Type": "application/json" }, body: JSON.stringify(order) });
  return read(answer);
}

let quieter;
function say(text) {
  said.textContent = visible(text);
  clearTimeout(quieter);
  quieter = setTimeout(() => { said.textContent = ""; }, 9000);
}

// ---- which page -----------------------------------------------------------------------------------------------------

let view = null;

function where() {
  const known = new URLSearchParams(location.hash.slice(1));
  return known.get("run") ? new RunView(known.get("run")) : new ListView(Number(known.get("from") ?? 0) || 0);
}

const hashOf = (known) => `#${new URLSearchParams(known)}`;

addEventListener("hashchange", () => {
  if (/^#[a-z]+$/.test(location.hash)) return; // a place on this page
  view = where();
  main.replaceChildren(el("p", { class: "quiet" }, "Reading …"));
  scrollTo(0, 0);
  tick();
});

let ticking = 0;
async function tick() {
  const mine = ++ticking, shown = view;
  try {
    await shown.refresh();
    if (mine !== ticking) return;
    link.className = "link live";
    link.textContent = shown.live === false ? "up to date" : "live";
  } catch (error) {
    if (mine !== ticking) return;
    if (error instanceof Refused) {
      shown.refused(error.message);
      link.className = "link";
      link.textContent = "";
    } else if (error instanceof TypeError && /fetch|network/i.test(error.message)) {
      link.className = "link lost";
      link.textContent = "the dashboard does not answer";
    } else throw error;
  } finally {
    if (mine === ticking) setTimeout(() => mine === ticking && (document.hidden ? wait() : tick()), PAUSE);
  }
}

function wait() {
  document.addEventListener("visibilitychange", tick, { once: true });
}

/** Do something that makes elements anew; what had the focus has it afterwards, or what stands in its place. */
function keepingFocus(change) {
  const all = () => [...main.querySelectorAll("a[href], button, input, select, summary, [tabindex]")];
  const active = document.activeElement, place = all().indexOf(active), known = active?.dataset?.key ?? active?.getAttribute?.("href");
  change();
  if (place < 0 || active.isConnected) return;
  const now = all(), same = known && now.find((it) => (it.dataset.key ?? it.getAttribute("href")) === known);
  (same || now[Math.min(place, now.length - 1)])?.focus({ preventScroll: true });
}

// ---- the list -------------------------------------------------------------------------------------------------------

class ListView {
  constructor(first) { this.first = first; this.shown = ""; }

  async refresh() {
    const data = await ask("runs", { first: this.first });
    const text = JSON.stringify(data);
    if (text === this.shown || view !== this) return;
    this.shown = text;
    document.title = "hyperflow";
    document.getElementById("where").textContent = visible(data.base_dir);
    const go = (title, first, off) => el("button", { type: "button", disabled: off, onclick: () => { location.hash = hashOf({ from: first }); } }, title);
    const last = Math.min(data.first + data.page, data.total);
    const tools = data.total > data.page ? [go("Newer", Math.max(data.first - data.page, 0), data.first === 0), go("Older", data.first + data.page, last >= data.total)] : [];
    const { made, body } = card("Runs", "runs", data.total > data.page ? `${count(data.first + 1)} to ${count(last)} of ${count(data.total)}, the newest first` : `the newest first`, tools);
    body.append(data.runs.length ? runsTable(data.runs) : el("p", { class: "quiet" }, "There are no runs here yet. Start one; it appears by itself."));
    keepingFocus(() => main.replaceChildren(el("h1", { class: "skip" }, "Runs"), made));
  }

  refused(text) { main.replaceChildren(el("p", { class: "card error" }, text)); }
}

const hours = (it) => { const digits = it.held < 36000 ? 3 : 1; return `${(it.used / 3600).toFixed(digits)} of ${(it.held / 3600).toFixed(digits)}`; };

function runsTable(rows) {
  const some = (of, column) => (rows.some(of) ? [column] : []);
  return table([
    ["Run", (it) => el("a", { href: hashOf({ run: it.name }) }, it.name), { kind: "whole mono" }],
    ["State", (it) => badge(it.state)],
    ["Program", (it) => el("span", { class: "lines", title: visible(it.command) }, it.command), { wide: true, kind: "name" }],
    ["Began", (it) => clock(it.began), { kind: "whole" }],
    ["Took", (it) => seconds(it.seconds === null ? null : Math.round(it.seconds * 10) / 10), { number: true }],
    ["Done", (it) => (it.done ? count(it.done) : ""), { number: true }],
    ["Failed", (it) => (it.failed ? el("span", { class: "error" }, count(it.failed)) : ""), { number: true }],
    ["CPU hours", (it) => (it.held ? hours(it) : ""), { number: true }],
    ...some((it) => it.jobs, ["Jobs", (it) => it.jobs]),
    ["Where", (it) => it.where],
  ], rows, { caption: "Runs" });
}

// ---- one run --------------------------------------------------------------------------------------------------------

class RunView {
  constructor(name) {
    this.name = name;
    this.have = "";
    this.window = null; // of the Gantt chart; null for the whole run
    this.first = 0;
    this.node = "";
    this.opened = new Set(); // failures
    this.reasons = new Map(); // of jobs that somebody has asked about
    this.last = {};
    this.parts = null;
  }

  parameters() {
    return { run: this.name, from: this.window?.[0], to: this.window?.[1], first: this.first, node: this.node };
  }

  async refresh() {
    const asked = JSON.stringify(this.parameters());
    const data = await ask("run", { ...this.parameters(), have: this.have });
    if (view !== this || asked !== JSON.stringify(this.parameters())) return;
    this.have = data.version;
    this.show(data);
  }

  refused(text) {
    if (this.parts === null) main.replaceChildren(el("p", { class: "card error" }, text));
    else this.parts.trouble.replaceChildren(el("p", { class: "card error" }, text)); // what was seen stays
  }

  show(data) {
    if (this.parts === null) this.build(data);
    const parts = this.parts;
    this.live = data.about.live;
    document.title = visible(`${data.about.state} ${data.about.title}`);
    parts.trouble.replaceChildren();
    this.only("about", data.about, () => { parts.head.replaceChildren(heading(data.about)); parts.about.replaceChildren(facts(data.about.facts)); });
    this.only("jobs", data.jobs, () => this.showJobs(data.jobs));
    this.only("vars", data.vars, () => this.showVariables(data.vars));
    if (data.utilisation === undefined) return;
    this.data = data;
    this.only("functions", data.functions, () => parts.functions.replaceChildren(data.functions.length ? functionsTable(data.functions) : el("p", { class: "quiet" }, "Nothing was evaluated so far.")));
    this.only("slowest", data.slowest, () => parts.slowest.replaceChildren(data.slowest.length ? slowestTable(data.slowest) : el("p", { class: "quiet" }, "Nothing has run so far.")));
    this.only("failures", data.failures, () => parts.failures.replaceChildren(failureList(data.failures, (it) => this.evaluation(it), this.opened)));
    this.only("nodes", data.nodes, () => parts.choice.replaceChildren(el("option", { value: "" }, "all nodes"), ...data.nodes.map((it) => el("option", { value: it, selected: it === this.node }, it))));
    this.only("drawings", data.drawings, () => this.showDrawings(data.drawings));
    this.draw();
  }

  /** Do something if this part of the data has changed. */
  only(name, data, change) {
    const text = JSON.stringify(data);
    if (this.last[name] === text) return;
    this.last[name] = text;
    keepingFocus(change);
  }

  build(data) {
    const chart = () => el("div", { class: "chart" });
    const button = (title, onclick, label = null) => el("button", { type: "button", onclick, "aria-label": label }, title);
    const choice = el("select", { "aria-label": "Workers of which node", onchange: () => { this.node = choice.value; this.first = 0; this.again(); } });
    this.lanes = [button("Lanes ↑", () => this.step(-1), "Workers before these"), button("Lanes ↓", () => this.step(1), "Workers after these")];
    const tools = [choice, ...this.lanes, button("Earlier", () => this.move(-0.5)), button("Later", () => this.move(0.5)), button("Zoom in", () => this.zoom(0.4)), button("Zoom out", () => this.zoom(2.5)), button("Whole run", () => this.look(null))];
    const utilisation = card("Utilisation", "utilisation", "CPUs busy, of those that were there; below, each node"), evaluations = card("Evaluations", "evaluations", "", tools);
    const jobs = card("Jobs", "jobs"), vars = card("Variables", "variables", "the program gets a new value when it reads it next");
    const functions = card("Functions", "functions"), slowest = card("Slowest evaluations", "slowest"), failures = card("Failures", "failures");
    const drawings = card("What the program drew", "drawings"), about = card("About", "about");
    const number = el("input", { id: "number", size: 8, placeholder: data.jobs ? "3.17" : "17", autocomplete: "off" });
    const found = el("div");
    const form = el("form", { class: "field", onsubmit: (event) => { event.preventDefault(); if (number.value.trim()) this.pick(number.value.trim().replace(/^#/, "")); } },
      el("label", { for: "number" }, "Evaluation"), number, el("button", { type: "submit" }, "Look at it"));
    const parts = { trouble: el("div"), head: el("div"), choice, found, number, utilisation: chart(), gantt: chart(), legend: el("div"), note: evaluations.note };
    utilisation.body.append(parts.utilisation);
    evaluations.body.append(parts.gantt, parts.legend, el("p", { class: "small quiet" }, "Drag over the chart to zoom; double click for the whole run; click on an evaluation for more."), form, found);
    Object.assign(parts, { jobs: jobs.body, jobsNote: jobs.note, vars: vars.body, functions: functions.body, slowest: slowest.body, failures: failures.body, drawings: drawings.body, about: about.body });
    parts.cards = { jobs: jobs.made, vars: vars.made, drawings: drawings.made };
    const order = [jobs, utilisation, evaluations, drawings, functions, failures, vars, slowest, about];
    parts.jump = el("nav", { class: "jump", "aria-label": "Parts of this page" });
    for (const [id, made] of order.map((it) => [it.made.id, it.made])) {
      parts.jump.append(el("a", { href: `#${id}`, "data-part": id, onclick: (event) => { event.preventDefault(); made.scrollIntoView(); made.setAttribute("tabindex", "-1"); made.focus({ preventScroll: true }); } }, made.querySelector("h2").textContent));
    }
    this.parts = parts;
    main.replaceChildren(parts.trouble, parts.head, parts.jump, ...order.map((it) => it.made));
    document.getElementById("where").textContent = visible(this.name);
    this.hide("jobs", !data.jobs, jobs.made);
    this.hide("variables", !data.vars.length, vars.made);
    this.hide("drawings", true, drawings.made);
  }

  hide(id, off, made) {
    made.hidden = off;
    this.parts.jump.querySelector(`[data-part="${id}"]`).hidden = off;
  }

  // ---- charts ----

  draw() {
    const { parts, data } = this;
    if (!data) return;
    drawUtilisation(parts.utilisation, data.utilisation);
    this.drawGantt(data.gantt);
    for (const one of this.charts ?? []) one();
  }

  drawGantt(gantt) {
    const { parts } = this;
    this.gantt = gantt;
    drawGantt(parts.gantt, gantt, { onzoom: (from, to) => this.look(from === null ? null : [from, to]), onpick: (it) => this.pick(it) });
    parts.note.textContent = visible(ganttNote(gantt));
    parts.legend.replaceChildren(legend(gantt));
    const more = gantt.all_lanes > gantt.lanes.length;
    this.lanes.forEach((it) => { it.hidden = !more; });
    this.lanes[0].disabled = gantt.first === 0;
    this.lanes[1].disabled = gantt.first + gantt.lanes.length >= gantt.all_lanes;
  }

  async again() {
    try {
      const asked = JSON.stringify(this.parameters()), gantt = await ask("gantt", this.parameters());
      if (view === this && asked === JSON.stringify(this.parameters())) { this.data.gantt = gantt; this.drawGantt(gantt); }
    } catch (error) { if (error instanceof Refused) say(error.message); }
  }

  look(window) { this.window = window; return this.again(); }

  zoom(factor) {
    const { from, to, whole } = this.gantt, middle = (from + to) / 2, half = Math.max((to - from) * factor / 2, 5e-5);
    const window = [Math.max(middle - half, whole[0]), Math.min(middle + half, whole[1])];
    return this.look(window[0] <= whole[0] && window[1] >= whole[1] ? null : window);
  }

  move(part) {
    const { from, to, whole } = this.gantt, size = to - from;
    if (size >= whole[1] - whole[0]) return null;
    const begin = Math.min(Math.max(from + part * size, whole[0]), whole[1] - size);
    return this.look([begin, begin + size]);
  }

  step(direction) { this.first = Math.max(this.first + direction * this.gantt.lanes.length, 0); return this.again(); }

  showDrawings(drawings) {
    this.hide("drawings", !drawings.length, this.parts.cards.drawings);
    const picture = (it) => `/api/picture?${new URLSearchParams({ run: this.name, name: it.name, version: it.version })}`;
    const names = JSON.stringify(drawings.map((it) => [it.name, it.kind]));
    if (names === this.drawn) return this.growDrawings(drawings, picture);
    this.drawn = names;
    this.charts = drawAll(this.parts.drawings, drawings, picture);
    return null;
  }

  /** Draw what has come into the same charts. */
  growDrawings(drawings, picture) {
    const figures = [...this.parts.drawings.querySelectorAll("figure")];
    const room = el("div");
    this.charts = drawAll(room, drawings, picture);
    // New charts take the place of the old ones: there are few points, and nobody zooms here.
    [...room.querySelectorAll("figure")].forEach((made, place) => figures[place].replaceWith(made));
  }

  // ---- evaluations ----

  async pick(name) {
    this.parts.number.value = name;
    try { this.parts.found.replaceChildren(await this.evaluation(name, true)); }
    catch (error) { if (error instanceof Refused) this.parts.found.replaceChildren(el("p", { class: "error" }, error.message)); else throw error; }
  }

  async evaluation(name, whole = false) {
    let data;
    try { data = await ask("evaluation", { run: this.name, evaluation: name }); }
    catch (error) { if (whole || !(error instanceof Refused)) throw error; return el("p", { class: "error" }, error.message); }
    const last = data.tries.at(-1);
    const pairs = [["function or name", last.name], ["on", data.tries.map((it) => it.worker || "no worker").join(", then ")],
      ["took", data.tries.map((it) => (it.seconds === null ? "it waits" : `${seconds(it.seconds)} (${it.outcome})`)).join(", then ")]];
    if (last.memory) pairs.push(["memory", bytes(last.memory)]);
    const call = data.tries.map((it) => it.call).filter(Boolean).at(-1), error = data.tries.map((it) => it.error).filter(Boolean).at(-1);
    if (whole && call) pairs.push(["call", call]);
    return el("div", {}, whole ? el("h3", {}, `Evaluation ${data.evaluation}`) : null, facts(pairs),
      whole && error ? el("p", { class: "error" }, error) : null,
      data.traceback ? [el("h3", {}, "Traceback"), el("pre", { tabindex: 0 }, data.traceback)] : null,
      el("h3", {}, "Log"), data.log ? el("pre", { tabindex: 0 }, data.log) : el("p", { class: "quiet" }, "It has printed nothing."));
  }

  // ---- jobs and variables ----

  showJobs(data) {
    this.hide("jobs", data === null, this.parts.cards.jobs);
    if (data === null) return;
    const { parts } = this;
    parts.jobsNote.textContent = visible(data.note);
    const rows = data.jobs.map((job) => {
      const actions = el("div", { class: "tools" });
      const act = (title, order, states) => states.includes(job.state) && actions.append(el("button", { type: "button", class: order === "retry" ? null : "danger", "data-key": `${order} ${job.number}`, "aria-label": `${title} job ${job.number}`, onclick: () => this.order(title, order, job) }, title));
      actions.append(el("button", { type: "button", "data-key": `why ${job.number}`, "aria-expanded": String(this.reasons.has(job.number)), "aria-label": `Why is job ${job.number} ${job.state}`, onclick: () => this.why(job.number) }, "Why"));
      act("Retry", "retry", ["held", "failed", "cancelled"]);
      act("Cancel", "cancel", ["new", "submitting", "queued", "running", "ended"]);
      act("Give up", "give_up", ["held"]);
      return { ...job, actions };
    });
    const some = (of, column) => (rows.some(of) ? [column] : []);
    const progress = (it) => [it.progress.done && `${count(it.progress.done)} done`, it.progress.running && `${count(it.progress.running)} running`, it.progress.waiting && `${count(it.progress.waiting)} waiting`, it.progress.failed && `${count(it.progress.failed)} failed`].filter(Boolean).join(", ");
    const reasons = [...this.reasons].sort(([one], [other]) => one - other).map(([number, made]) => el("div", {}, el("h3", {}, `Job ${number}`), made));
    parts.jobs.replaceChildren(
      rows.length ? table([
        ["Job", (it) => it.number, { number: true }],
        ["Name", (it) => it.name, { wide: true, kind: "name" }],
        ["State", (it) => badge(it.state)],
        ...some((it) => it.batch_id !== null && !data.local, ["Slurm", (it) => it.batch_id ?? ""]),
        ...some((it) => it.nodes, ["Nodes", (it) => it.nodes]),
        ["Evaluations", progress],
        ...some((it) => it.cause || it.reason, ["Cause", (it) => it.cause || it.reason, { wide: true, kind: "name" }]),
        ...some((it) => it.attempts > 1, ["Tries", (it) => (it.attempts > 1 ? it.attempts : ""), { number: true }]),
        ["Since", (it) => clock(it.since), { kind: "whole" }],
        ["Orders", (it) => it.actions, { wide: true, kind: "orders" }],
      ], rows, { caption: "Jobs" }) : el("p", { class: "quiet" }, "The program has no jobs so far."),
      ...reasons,
      data.total > data.jobs.length ? el("p", { class: "quiet" }, `and ${count(data.total - data.jobs.length)} more: hyperflow list`) : "");
  }

  async why(number) {
    if (this.reasons.delete(number)) return this.jobsAgain();
    try {
      const told = await ask("why", { run: this.name, job: number });
      this.reasons.set(number, el("pre", { tabindex: 0 }, [told.why, told.note].filter(Boolean).join("\n")));
    } catch (error) { if (!(error instanceof Refused)) throw error; say(error.message); }
    return this.jobsAgain();
  }

  jobsAgain() { keepingFocus(() => this.showJobs(JSON.parse(this.last.jobs))); }

  order(title, order, job) {
    const dialog = document.getElementById("order");
    const what = {
      retry: "It is submitted again. Leave a field empty for what it had.",
      cancel: "It is ended at Slurm, or removed from its queue; then it is held, and you can retry it or give it up.",
      give_up: "Its error is raised in the program, which ends with it unless it handles it.",
    }[order];
    const fields = order === "retry" ? [["time", "Time, as 2:00:00"], ["mem", "Memory, as 8G"]] : [];
    const inputs = fields.map(([name, label]) => el("label", {}, label, el("input", { name, autocomplete: "off" })));
    const error = el("p", { class: "error", role: "alert" });
    const form = el("form", { method: "dialog" },
      el("h2", { id: "order-title" }, `${title} job ${job.number}?`), el("p", {}, el("strong", {}, job.name), " ", what), el("div", { class: "fields" }, ...inputs), error,
      el("div", { class: "tools" }, el("button", { type: "button", onclick: () => dialog.close() }, "Never mind"), el("button", { type: "submit", class: "main" }, `${title} it`)));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const changes = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
      try {
        const done = await give({ run: this.name, order, jobs: [job.number], ...(order === "retry" ? { changes } : {}) });
        dialog.close();
        say(done.said);
        tick();
      } catch (problem) { error.textContent = visible(problem.message); }
    });
    const back = () => [order, "why"].map((it) => main.querySelector(`[data-key="${it} ${job.number}"]`)).find(Boolean)?.focus();
    dialog.addEventListener("close", back, { once: true }); // the table may have been made anew meanwhile
    dialog.replaceChildren(form);
    dialog.showModal();
  }

  showVariables(vars) {
    this.hide("variables", !vars.length, this.parts.cards.vars);
    const room = this.parts.vars;
    if (JSON.stringify(vars.map((it) => it.name)) === JSON.stringify([...room.querySelectorAll("form")].map((it) => it.dataset.name))) {
      // What somebody is typing is not taken away.
      vars.forEach((it) => { const input = [...room.querySelectorAll("input")].find((one) => one.name === it.name); if (input.value === input.dataset.known) { input.value = visible(it.text); } input.dataset.known = visible(it.text); });
      return;
    }
    const forms = vars.map(({ name, text }) => {
      const input = el("input", { id: `var-${name}`, name, value: visible(text), "data-known": visible(text), autocomplete: "off", spellcheck: "false" });
      return el("form", { "data-name": name, onsubmit: async (event) => {
        event.preventDefault();
        try {
          const told = await give({ run: this.name, order: "set", name, value: input.value });
          input.dataset.known = input.value;
          say(told.said);
        } catch (error) { say(error.message); }
      } }, el("label", { for: `var-${name}` }, name), input, el("button", { type: "submit", "aria-label": `Set ${name}` }, "Set"));
    });
    room.replaceChildren(el("div", { class: "vars" }, ...forms));
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.draw?.());

view = where();
tick();
