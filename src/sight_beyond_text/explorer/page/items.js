// The items of two runs: filtered, searched, in a list that draws only what is in sight.

const ROW = 68;
const SPARE = 6;
let shownPair = null; // what was read for the two runs and the task
let asking = 0;

async function readPair(pair, task, key) {
  const known = shownPair && shownPair.pair === JSON.stringify(pair) ? shownPair : null;
  const outcomes = known ? known.outcomes : await pairOutcomes(pair);
  const effects = known ? known.effects : await effectsOf(pair);
  const wanted = outcomes.filter((own) => !task || taskKey(index.tasks[own.task]) === task);
  const parts = await Promise.all(wanted.map(async (own) => ({
    ...own,
    facts: await factsOf(own.task),
    said: [await answersOf(pair.a, own.task), await answersOf(pair.b, own.task)],
  })));
  const entries = [];
  parts.forEach((part, number) => {
    part.codes.forEach((code, at) => {
      if (code !== ABSENT) entries.push({ part: number, at, code });
    });
  });
  return { key, pair: JSON.stringify(pair), outcomes, effects, parts, entries, texts: null };
}

function entryText({ facts, said }, at) {
  const texts = [facts.item[at], facts.question?.[at], facts.reference?.[at], facts.image?.[at], ...choicesOf(facts, said[0], at), ...(facts.references?.[at] || [])];
  for (const answers of said) texts.push(saidOf(facts, answers, at), answers.generated?.[at]);
  return texts.filter(Boolean).join("\n").toLowerCase();
}

// Texts in lower case, once, before anybody has typed a word if there is time.
function prepareSearch(shown) {
  if (!shown.texts) shown.texts = shown.entries.map(({ part, at }) => entryText(shown.parts[part], at));
}

// Numbers of the entries to show, in order; and how many there are of each outcome.
function matching(shown) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length) prepareSearch(shown);
  const counts = [0, 0, 0, 0, 0, 0];
  const wanted = OUTCOMES[state.show]?.code;
  const found = [];
  shown.entries.forEach((entry, number) => {
    if (!words.every((word) => shown.texts[number].includes(word))) return;
    counts[entry.code]++;
    if (wanted === undefined || entry.code === wanted) found.push(number);
  });
  if (state.order !== "item") {
    const change = (number) => {
      const { part, at } = shown.entries[number];
      return shown.parts[part].right[at] - shown.parts[part].left[at];
    };
    const way = state.order === "rise" ? -1 : 1;
    found.sort((one, other) => (change(one) - change(other)) * way || one - other);
  }
  return { found, counts };
}

let listParts = null;

async function drawItems(view) {
  const pair = picked();
  const turn = ++asking;
  if (!pair) {
    listParts = null;
    fill(view, pairBar(), make("p", { className: "notice" }, "Choose two runs: here, or in the table of runs."));
    return;
  }
  if (!index.tasks.length) {
    fill(view, pairBar(), make("p", { className: "notice" }, "The study's tables hold no items."));
    return;
  }
  const task = index.tasks.some((own) => taskKey(own) === state.task) ? state.task : "";
  const key = JSON.stringify([pair, task]);
  let shown = shownPair;
  // What is at hand is drawn at once, not in a later turn.
  if (!shown || shown.key !== key) {
    try {
      shown = await readPair(pair, task, key);
    } catch (error) {
      listParts = null;
      if (turn === asking) fill(view, pairBar(), make("p", { className: "notice error" }, `Error: ${error.message}`));
      return;
    }
    if (turn !== asking) return;
  }
  const fresh = !listParts || listParts.view.parentNode !== view || listParts.key !== shown.key;
  shownPair = shown;
  if (fresh) {
    const focused = document.activeElement?.id;
    listParts = listFrame(shown);
    setTimeout(() => shownPair === shown && prepareSearch(shown), 300);
    fill(view, listParts.view);
    if (focused) byId(focused)?.focus({ preventScroll: true });
  }
  drawList(shown);
}

function listFrame(shown) {
  const parts = { key: shown.key, found: [], active: 0 };
  parts.search = make("input", {
    type: "search", id: "search", autocomplete: "off", placeholder: "question, choice, answer, item", value: state.q,
    onfocus: () => prepareSearch(shown),
    oninput: (event) => go({ q: event.target.value }, { replace: true }),
  });
  parts.order = make("select", { id: "order", onchange: (event) => go({ order: event.target.value }) },
    option("item", "as in the benchmark", state.order), option("rise", "largest gain first", state.order), option("fall", "largest loss first", state.order));
  const tasks = make("select", { id: "task", onchange: (event) => go({ task: event.target.value, item: "" }) },
    option("", "all benchmarks", state.task),
    shown.outcomes.map((own) => option(taskKey(index.tasks[own.task]), `${index.tasks[own.task].label} (${count(own.n)})`, state.task)));
  parts.chips = make("div", { className: "chips", role: "group", "aria-label": "Outcome" });
  parts.count = make("p", { className: "count", id: "item-count", role: "status" });
  parts.space = make("div", { className: "space" });
  parts.list = make("div", {
    className: "list", id: "list", tabIndex: 0, role: "listbox", "aria-label": "Items", onscroll: () => drawRows(shown), onkeydown: (event) => listKeys(event, shown),
  }, parts.space);
  parts.detail = make("div", { className: "detail", id: "detail", tabIndex: -1, role: "region", "aria-label": "Item" });
  parts.both = make("div", { className: "both" },
    make("div", { className: "left" }, parts.count, parts.list), parts.detail);
  parts.view = make("section", { "aria-label": "Items" }, pairBar(), overview(shown.outcomes, shown.effects),
    make("div", { className: "fields" }, labelled("Benchmark", tasks), labelled("Search", parts.search, "wide"), labelled("Order", parts.order)),
    parts.chips, parts.both);
  return parts;
}

function entryAddress(shown, number) {
  const { part, at } = shown.entries[number];
  return `${taskKey(index.tasks[shown.parts[part].task])}/${shown.parts[part].facts.item[at]}`;
}

function drawList(shown) {
  const parts = listParts;
  const { found, counts } = matching(shown);
  parts.found = found;
  if (document.activeElement !== parts.search) parts.search.value = state.q;
  parts.order.value = state.order;
  const total = counts.reduce((sum, own) => sum + own, 0);
  const graded = shown.parts.some((part) => !index.tasks[part.task].binary);
  const binary = shown.parts.some((part) => index.tasks[part.task].binary);
  const offered = Object.entries(OUTCOMES).filter(([key]) => (key === "same" ? graded : key === "right" || key === "wrong" ? binary : true));
  const focused = document.activeElement?.id;
  const chip = (key, label, mark, amount, tells) => make("button", {
    type: "button", id: `show-${key}`, className: `chip ${key}`, "aria-pressed": String(state.show === key), title: tells,
    onclick: () => { go({ show: key }); byId(`show-${key}`)?.focus(); },
  }, mark ? make("span", { "aria-hidden": "true" }, `${mark} `) : null, `${label} `, make("b", {}, count(amount)));
  fill(parts.chips, chip("all", "All", "", total, "every item that both runs were asked"),
    offered.map(([key, own]) => chip(key, own.label, own.mark, counts[own.code], own.tells)));
  if (focused?.startsWith("show-")) byId(focused)?.focus();
  parts.count.textContent = `${count(found.length)} of ${count(shown.entries.length)} items`;
  const open = state.item === "" ? -1 : found.findIndex((number) => entryAddress(shown, number) === state.item);
  parts.active = Math.max(0, open);
  parts.space.style.height = `${found.length * ROW}px`;
  parts.list.classList.toggle("empty", !found.length);
  if (open >= 0) reveal(open);
  else if (!state.item) parts.list.scrollTop = 0;
  drawRows(shown);
  drawDetail(shown);
}

function reveal(at) {
  const { list } = listParts;
  if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
  else if ((at + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ROW - list.clientHeight;
}

function drawRows(shown) {
  const { list, space, found } = listParts;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(found.length, Math.ceil((list.scrollTop + (list.clientHeight || 600)) / ROW) + SPARE);
  const rows = [];
  for (let place = first; place < last; place++) rows.push(itemRow(shown, place));
  if (!found.length) rows.push(make("p", { className: "notice" }, "No item fits."));
  fill(space, rows);
  if (found.length) list.setAttribute("aria-activedescendant", `item-${listParts.active}`);
  else list.removeAttribute("aria-activedescendant");
}

function line(text, length = 220) {
  const flat = (text ?? "").replace(/\s+/g, " ").trim();
  return flat.length > length ? `${flat.slice(0, length)}\u2026` : flat;
}

function itemRow(shown, place) {
  const { part: number, at, code } = shown.entries[listParts.found[place]];
  const part = shown.parts[number];
  const { facts, said } = part;
  const outcome = OUTCOME_OF[code];
  const open = state.item !== "" && entryAddress(shown, listParts.found[place]) === state.item;
  const answer = (side) => {
    const text = saidOf(facts, said[side], at);
    return text === "" ? "(nothing)" : line(text, 90);
  };
  const row = make("div", {
    className: `item ${outcome.key}${place === listParts.active ? " active" : ""}`, id: `item-${place}`, role: "option",
    "aria-selected": String(open), "aria-setsize": listParts.found.length, "aria-posinset": place + 1,
    onclick: () => { listParts.list.focus({ preventScroll: true }); openItem(shown, place); },
  },
  make("span", { className: `outcome ${outcome.key}`, title: outcome.label }, make("span", { "aria-hidden": "true" }, outcome.mark), make("span", { className: "unseen" }, outcome.label)),
  make("span", { className: "words" },
    make("span", { className: "question" }, questionOf(facts, at) ? line(questionOf(facts, at)) : make("em", {}, `${facts.item[at]}: question not kept`)),
    make("span", { className: "answers" }, make("b", { className: "mark a" }, "A"), ` ${answer(0)} `, make("b", { className: "mark b" }, "B"), ` ${answer(1)}`),
    make("span", { className: "from" }, placeOf(index.tasks[part.task], facts.item[at]))),
  make("span", { className: "change" }, index.tasks[part.task].binary ? "" : signed(part.right[at] - part.left[at], 2)));
  row.style.top = `${place * ROW}px`;
  return row;
}

// "BoolQ 7" for boolq/7; names of their own stay as they are.
function placeOf(task, item) {
  return `${task.label} ${item.startsWith(`${task.benchmark}/`) ? item.slice(task.benchmark.length + 1) : `\u00b7 ${item}`}`;
}

// The question without the word that only asks a model to go on.
function questionOf(facts, at) {
  return (facts.question?.[at] || "").replace(/\s*\n(A|Answer):$/, "");
}

function openItem(shown, place, options) {
  const number = listParts.found[place];
  if (number === undefined) return;
  go({ item: entryAddress(shown, number) }, options);
}

function listKeys(event, shown) {
  const page = Math.max(1, Math.floor(listParts.list.clientHeight / ROW) - 1);
  const { active, found } = listParts;
  const opened = state.item !== "" && found[active] !== undefined && entryAddress(shown, found[active]) === state.item;
  const to = {
    ArrowDown: opened ? active + 1 : active, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: found.length - 1, Enter: active, " ": active,
  }[event.key];
  if (event.key === "Escape" && state.item) go({ item: "" });
  if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  // Walking along the list is one step back, not as many as there were items.
  openItem(shown, Math.max(0, Math.min(to, found.length - 1)), { replace: opened });
  if (event.key === "Enter") byId("detail").focus();
}
