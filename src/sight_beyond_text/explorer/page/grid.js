// The grid of runs: facts and reported values, sorted and filtered.

const FACTS = [
  { key: "kind", label: "Kind", text: (run) => run.kind, filter: true },
  { key: "base", label: "Base", text: (run) => run.base, filter: true },
  { key: "source", label: "Source", text: (run) => run.source, filter: true },
  { key: "tuning", label: "Tuning", text: (run) => run.tuning, filter: true },
  { key: "seed", label: "Seed", text: (run) => (run.seed === null ? "" : String(run.seed)), filter: true },
  { key: "kinds", label: "Instructions", text: (run) => run.instruction_kinds, filter: true },
  { key: "trainable", label: "Learns", text: (run) => short(run.trainable_parameters), value: (run) => run.trainable_parameters },
  { key: "seconds", label: "Training", text: (run) => (run.train_seconds === null ? "\u2013" : `${number(run.train_seconds, 0)} s`), value: (run) => run.train_seconds },
];
FACTS.forEach((fact) => {
  fact.values = [...new Set(index.runs.map(fact.text))].filter((text) => text !== "");
});

const SUITES = { text: "Text", image: "Image", corrupted: "Corrupted images" };
// The subsets of ETHICS are there on demand: their mean stands for them.
const SUBSET = /^ethics_/;
const columns = index.columns.map((column) => {
  const known = column.low.filter((v) => v !== null).concat(column.value.filter((v) => v !== null));
  const tops = column.high.filter((v) => v !== null).concat(column.value.filter((v) => v !== null));
  return {
    ...column,
    key: taskKey(column),
    title: column.main && ["acc", "accuracy"].includes(column.metric) ? column.label : `${column.label} ${column.metric_label}`,
    least: Math.min(...known),
    most: Math.max(...tops),
    usual: column.main && column.suite !== "corrupted" && !SUBSET.test(column.benchmark),
  };
});
const HEADLINE = FACTS.filter((fact) => fact.filter && fact.key !== "kind" && fact.values.length > 1);

function shownColumns() {
  const all = [...FACTS, ...columns];
  const usual = columns.filter((column) => column.usual);
  if (!state.columns) return NARROW.matches ? usual : [...HEADLINE, ...usual];
  const wanted = new Set(state.columns.split(","));
  return all.filter((column) => wanted.has(column.key));
}

function matchingRuns() {
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  index.runs.forEach((run, at) => {
    const text = `${run.name} ${run.run} ${run.label} ${run.kind} ${run.source} ${run.tuning}`.toLowerCase();
    const fits = FACTS.every((fact) => !fact.filter || !state[fact.key] || fact.text(run) === state[fact.key]);
    if (fits && words.every((word) => text.includes(word))) found.push(at);
  });
  const [key, direction] = [state.sort.replace(/^-/, ""), state.sort.startsWith("-") ? -1 : 1];
  const by = [{ key: "name", text: (run) => run.name }, ...FACTS, ...columns].find((c) => c.key === key);
  if (!by) return found;
  const value = (at) => {
    if (by.n !== undefined) return by.value[at];
    return by.value ? by.value(index.runs[at]) : by.text(index.runs[at]) || null;
  };
  return found.sort((one, other) => {
    const [left, right] = [value(one), value(other)];
    if (left === null || right === null) return (left === null) - (right === null);
    const order = typeof left === "string" ? left.localeCompare(right, "en", { numeric: true }) : left - right;
    return order * direction || one - other;
  });
}

let gridParts = null;

function drawGrid(view) {
  if (!gridParts || gridParts.view.parentNode !== view) {
    gridParts = gridFrame();
    fill(view, gridParts.view);
  }
  const parts = gridParts;
  if (document.activeElement !== parts.find) parts.find.value = state.find;
  for (const [key, select] of parts.selects) select.value = state[key];
  fill(parts.columns, columnChoice());
  const rows = matchingRuns();
  const shown = shownColumns();
  parts.count.textContent = `${rows.length} of ${index.runs.length} runs`;
  fill(parts.table, gridHead(shown), gridBody(rows, shown));
  drawPicked(parts.picked);
}

function gridFrame() {
  const parts = { selects: [] };
  parts.find = make("input", {
    type: "search", id: "find", placeholder: "name, source, \u2026", autocomplete: "off",
    oninput: (event) => go({ find: event.target.value }, { replace: true }),
  });
  const fields = [labelled("Find runs", parts.find)];
  for (const fact of FACTS.filter((fact) => fact.filter && fact.values.length > 1)) {
    const select = make("select", { id: `filter-${fact.key}`, onchange: (event) => go({ [fact.key]: event.target.value }) },
      option("", "all", ""), fact.values.map((value) => option(value, value, "")));
    parts.selects.push([fact.key, select]);
    fields.push(labelled(fact.label, select));
  }
  parts.count = make("p", { className: "count", id: "run-count", role: "status" });
  parts.columns = make("div", { className: "choices" });
  parts.table = make("table", { id: "runs", onkeydown: gridKeys });
  parts.picked = make("div", { className: "picked", id: "picked" });
  parts.view = make("section", { "aria-label": "Runs" },
    make("div", { className: "fields" }, fields),
    make("details", { className: "columns" }, make("summary", {}, "Columns"), parts.columns),
    parts.count,
    make("div", { className: "scroller", tabIndex: 0, role: "region", "aria-label": "Table of runs" }, parts.table),
    make("p", { className: "hint" }, "Values with 95 % intervals. In the table: arrow keys move, ",
      make("kbd", {}, "a"), " and ", make("kbd", {}, "b"), " pick the two runs to compare item by item."),
    parts.picked);
  return parts;
}

function columnChoice() {
  const shown = new Set(shownColumns().map((column) => column.key));
  const toggle = (key) => (event) => {
    const wanted = new Set(shown);
    if (event.target.checked) wanted.add(key);
    else wanted.delete(key);
    const kept = [...FACTS, ...columns].map((column) => column.key).filter((own) => wanted.has(own));
    go({ columns: kept.join(",") || "none" });
    byId(`column-${key}`)?.focus();
  };
  const group = (title, own) => make("fieldset", {}, make("legend", {}, title), own.map((column) => make("label", {},
    make("input", { type: "checkbox", id: `column-${column.key}`, checked: shown.has(column.key), onchange: toggle(column.key) }),
    ` ${column.title || column.label}`)));
  const groups = [group("Facts", FACTS)];
  for (const suite of new Set(columns.map((column) => column.suite))) {
    groups.push(group(SUITES[suite] || suite, columns.filter((column) => column.suite === suite)));
  }
  if (state.columns) groups.unshift(make("button", { type: "button", onclick: () => go({ columns: "" }) }, "The usual columns"));
  return groups;
}

function gridHead(shown) {
  const [key, falling] = [state.sort.replace(/^-/, ""), state.sort.startsWith("-")];
  const cell = (own, title, detail, best) => {
    const sorted = own === key;
    const first = best ? `-${own}` : own;
    const second = best ? own : `-${own}`;
    const next = state.sort === first ? second : state.sort === second ? "" : first;
    return make("th", { scope: "col", className: own === "name" ? "name" : "", "aria-sort": sorted ? (falling ? "descending" : "ascending") : "none" },
      make("button", {
        type: "button", id: `sort-${own}`, title: `Sort by ${title}`,
        onclick: () => { go({ sort: next }); byId(`sort-${own}`)?.focus(); },
      }, title, make("span", { className: "arrow", "aria-hidden": "true" }, sorted ? (falling ? " \u25be" : " \u25b4") : "")),
      detail ? make("small", {}, detail) : null);
  };
  return make("thead", {}, make("tr", {},
    cell("name", "Run"),
    shown.map((column) => column.n === undefined
      ? cell(column.key, column.label)
      : cell(column.key, column.title, `${column.factor === 100 ? "% " : ""}n = ${count(column.n)}${column.better ? "" : ", lower is better"}`, column.better))));
}

let activeRow = 0;

function gridBody(rows, shown) {
  activeRow = Math.min(activeRow, Math.max(rows.length - 1, 0));
  const body = make("tbody", {}, rows.map((at, place) => {
    const run = index.runs[at];
    const pick = (side) => make("button", {
      type: "button", className: `pick ${side}`, "aria-pressed": String(state[side] === run.run), tabIndex: place === activeRow ? 0 : -1,
      "aria-label": `${run.name} as run ${side.toUpperCase()}`, onclick: () => pickRun(side, run.run),
    }, side.toUpperCase());
    return make("tr", { tabIndex: place === activeRow ? 0 : -1, "data-run": run.run, onfocus: () => setActiveRow(place) },
      make("th", { scope: "row", className: "name" }, make("span", { className: "run" }, make("span", { className: "picks" }, pick("a"), pick("b")), make("span", { title: run.run }, run.name))),
      shown.map((column) => column.n === undefined ? make("td", {}, column.text(run) || "\u2013") : valueCell(column, at)));
  }));
  if (!rows.length) body.append(make("tr", {}, make("td", { colSpan: shown.length + 1 }, "No run fits.")));
  return body;
}

function valueCell(column, at) {
  const value = column.value[at];
  if (value === null) return make("td", { className: "value" }, "\u2013");
  const [low, high, factor] = [column.low[at], column.high[at], column.factor];
  const place = (v) => (column.most > column.least ? ((v - column.least) / (column.most - column.least)) * 100 : 50);
  const dot = make("i", { className: "dot" });
  dot.style.left = `${place(value)}%`;
  const marks = [dot];
  if (low !== null && high !== null) {
    const bar = make("i", { className: "bar" });
    bar.style.left = `${place(low)}%`;
    bar.style.width = `${place(high) - place(low)}%`;
    marks.unshift(bar);
  }
  return make("td", { className: "value" }, make("span", {}, number(value * factor)),
    low === null || high === null ? null : make("small", {}, `${number(low * factor)} to ${number(high * factor)}`),
    make("span", { className: "whisker", "aria-hidden": "true" }, marks));
}

function pickRun(side, run) {
  const row = activeRow;
  go({ [side]: state[side] === run ? "" : run });
  say(state[side] ? `Run ${side.toUpperCase()}: ${index.runs[runNumber.get(run)].name}` : `Run ${side.toUpperCase()}: none`);
  const rows = gridParts.table.tBodies[0].rows;
  rows[Math.min(row, rows.length - 1)]?.focus({ preventScroll: true });
}

function setActiveRow(place) {
  activeRow = place;
  [...gridParts.table.tBodies[0].rows].forEach((row, at) => {
    const focusable = at === place ? 0 : -1;
    row.tabIndex = focusable;
    row.querySelectorAll("button").forEach((button) => (button.tabIndex = focusable));
  });
}

function gridKeys(event) {
  const row = event.target.closest("tbody tr");
  if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
  const rows = [...row.parentNode.rows];
  const at = rows.indexOf(row);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    const next = rows[Math.max(0, Math.min(to, rows.length - 1))];
    setActiveRow(rows.indexOf(next));
    next.focus();
  } else if (["a", "b"].includes(event.key) && row.dataset.run) {
    event.preventDefault();
    setActiveRow(at);
    pickRun(event.key, row.dataset.run);
  }
}

function drawPicked(element) {
  const name = (side) => (runNumber.has(state[side]) ? index.runs[runNumber.get(state[side])].name : "\u2013");
  element.hidden = !state.a && !state.b;
  fill(element,
    make("span", {}, make("b", { className: "mark a" }, "A"), ` ${name("a")}`),
    make("span", {}, make("b", { className: "mark b" }, "B"), ` ${name("b")}`),
    make("button", { type: "button", id: "compare", className: "primary", disabled: !(runNumber.has(state.a) && runNumber.has(state.b)), onclick: () => { go({ view: "items" }); byId("main").focus(); } }, "Compare item by item"));
}
