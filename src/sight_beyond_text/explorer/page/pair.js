// Two runs, benchmark by benchmark: which items flipped, and the study's own paired effect.

const [ABSENT, GAINED, LOST, RIGHT, WRONG, SAME] = [0, 1, 2, 3, 4, 5];
const OUTCOMES = {
  gained: { code: GAINED, label: "Gained", mark: "\u25b2", tells: "wrong in A, right in B, or a better score in B" },
  lost: { code: LOST, label: "Lost", mark: "\u25bc", tells: "right in A, wrong in B, or a worse score in B" },
  right: { code: RIGHT, label: "Both right", mark: "\u2713", tells: "right in both" },
  wrong: { code: WRONG, label: "Both wrong", mark: "\u2715", tells: "wrong in both" },
  same: { code: SAME, label: "Same score", mark: "=", tells: "graded, with the same score in both" },
};
const OUTCOME_OF = Object.fromEntries(Object.entries(OUTCOMES).map(([key, own]) => [own.code, { key, ...own }]));
const EVEN = 1e-6; // Scores are kept in 32 bits.

function picked() {
  const [a, b] = [runNumber.get(state.a), runNumber.get(state.b)];
  return a === undefined || b === undefined ? null : { a, b };
}

// The outcome of every item of a task for two runs, and how many of each there are.
async function outcomesOf(task, { a, b }) {
  const [left, right] = await Promise.all([scoresOf(a, task), scoresOf(b, task)]);
  if (!left || !right) return null;
  const { binary, better } = index.tasks[task];
  const codes = new Uint8Array(left.length);
  const counts = [0, 0, 0, 0, 0, 0];
  let [n, sumA, sumB] = [0, 0, 0];
  for (let at = 0; at < left.length; at++) {
    const [one, other] = [left[at], right[at]];
    let code = ABSENT;
    if (one === one && other === other) {
      const change = better ? other - one : one - other;
      if (change > EVEN) code = GAINED;
      else if (change < -EVEN) code = LOST;
      else if (!binary) code = SAME;
      else code = (one === 1) === better ? RIGHT : WRONG;
      n++;
      sumA += one;
      sumB += other;
    }
    codes[at] = code;
    counts[code]++;
  }
  return { task, codes, counts, n, left, right, a: sumA / n, b: sumB / n };
}

async function pairOutcomes(pair) {
  const all = await Promise.all(index.tasks.map((_, task) => outcomesOf(task, pair)));
  return all.filter((own) => own && own.n);
}

// [difference B - A, low, high, p, adjusted p] where the study has that contrast, either way round.
async function effectsOf({ a, b }) {
  const { pairs } = await load("effects");
  if (pairs[`${b}-${a}`]) return pairs[`${b}-${a}`];
  const turned = pairs[`${a}-${b}`] || {};
  const negative = (value) => (value === null ? null : -value);
  return Object.fromEntries(Object.entries(turned).map(([key, [difference, low, high, p, adjusted]]) => [
    key, [negative(difference), negative(high), negative(low), p, adjusted],
  ]));
}

function runSelect(side) {
  return make("select", { id: `run-${side}`, onchange: (event) => go({ [side]: event.target.value, item: "" }) },
    option("", "choose a run", state[side]),
    index.runs.map((run) => option(run.run, run.name, state[side])));
}

function pairBar() {
  return make("div", { className: "fields pair" },
    labelled("Run A", runSelect("a"), "a"),
    make("button", { type: "button", id: "swap", title: "Swap the two runs", "aria-label": "Swap the two runs", onclick: () => { go({ a: state.b, b: state.a }); byId("swap").focus(); } }, "\u21c4"),
    labelled("Run B", runSelect("b"), "b"));
}

function overview(outcomes, effects) {
  const head = ["Benchmark", "n", "A", "B", "B \u2212 A", "95 %", "p", "Gained", "Lost", "Right", "Wrong", "Same", "Flipped"];
  const rows = outcomes.map((own) => {
    const task = index.tasks[own.task];
    const key = taskKey(task);
    const effect = effects[key];
    const chosen = state.task === key;
    const p = effect ? effect[4] ?? effect[3] : null;
    const cell = (text, label) => make("td", { className: "value", "data-label": label }, text);
    const share = (code) => ((own.counts[code] / own.n) * 100);
    const flips = make("span", { className: "flips", "aria-hidden": "true" }, [GAINED, LOST].map((code) => {
      const bar = make("i", { className: OUTCOME_OF[code].key });
      bar.style.width = `${share(code)}%`;
      return bar;
    }));
    return make("tr", { className: chosen ? "chosen" : "", "data-task": key },
      make("th", { scope: "row", className: "name" }, make("button", {
        type: "button", className: "plain", "aria-pressed": String(chosen), id: `task-${own.task}`,
        onclick: () => { go({ task: chosen ? "" : key, item: "" }); byId(`task-${own.task}`)?.focus(); },
      }, task.label, ["acc", "accuracy"].includes(task.metric) ? "" : ` ${task.metric_label}`)),
      cell(count(own.n), "n"),
      cell(number(own.a * task.factor), "A"), cell(number(own.b * task.factor), "B"),
      cell(signed((own.b - own.a) * task.factor), "B \u2212 A"),
      cell(effect && effect[1] !== null ? `${signed(effect[1] * task.factor)} to ${signed(effect[2] * task.factor)}` : "\u2013", "95 %"),
      cell(p === null ? "\u2013" : p < 0.001 ? "< 0.001" : p.toFixed(3), "p"),
      [GAINED, LOST, RIGHT, WRONG, SAME].map((code) => make("td", { className: `value ${OUTCOME_OF[code].key}`, "data-outcome": OUTCOME_OF[code].key }, (task.binary ? code === SAME : code === RIGHT || code === WRONG) ? "\u2013" : count(own.counts[code]))),
      make("td", {}, flips));
  });
  const adjusted = Object.values(effects).some((effect) => effect[4] !== null);
  return make("details", { className: "overview", open: !NARROW.matches, id: "overview-box" },
    make("summary", {}, "By benchmark"),
    make("div", { className: "scroller", tabIndex: 0, role: "region", "aria-label": "Benchmarks" },
      make("table", { id: "overview" },
        make("thead", {}, make("tr", {}, head.map((text) => make("th", { scope: "col", className: text === "Benchmark" ? "name" : "" }, text)))),
        make("tbody", {}, rows))),
    make("p", { className: "hint" }, Object.keys(effects).length
      ? `Interval and p${adjusted ? " (Holm-adjusted within its family)" : ""} are those of the study's paired contrast of these runs.`
      : "The study has no contrast of these two runs, so no interval is given."));
}
