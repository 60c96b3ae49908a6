// One item: question, picture, choices with log-likelihoods or answers, and what other runs made of it.

function drawDetail(shown) {
  const parts = listParts;
  const number = state.item === "" ? undefined : shown.entries.findIndex((_, at) => entryAddress(shown, at) === state.item);
  const reading = number !== undefined && number >= 0;
  parts.both.classList.toggle("open", reading);
  parts.view.classList.toggle("reading", reading);
  if (reading && NARROW.matches) window.scrollTo(0, 0);
  if (number === undefined) {
    fill(parts.detail, make("p", { className: "notice" }, "Choose an item."));
    return;
  }
  if (number < 0) {
    fill(parts.detail, make("p", { className: "notice" }, "The address names an item that these two runs don't share here: ", make("code", {}, state.item)));
    return;
  }
  const { part: of, at, code } = shown.entries[number];
  const part = shown.parts[of];
  const { facts, said } = part;
  const task = index.tasks[part.task];
  const place = parts.found.indexOf(number);
  const outcome = OUTCOME_OF[code];
  const step = (by, text, label) => make("button", {
    type: "button", id: `step-${by}`, "aria-label": label, disabled: place < 0 || parts.found[place + by] === undefined,
    onclick: () => { openItem(shown, place + by, { replace: true }); byId(`step-${by}`)?.focus(); },
  }, text);
  const asked = facts.question?.[at];
  const told = [
    ["Benchmark", `${task.label}${task.suite === "corrupted" ? " (corrupted)" : ""}`], ["Item", facts.item[at]],
    ["Cluster", facts.cluster?.[at]], ["Group", facts.group?.[at]], ["Prompt", facts.prompt?.[at]],
    ["Examples", facts.shots?.[at] ? `${facts.shots[at]} before the question` : null],
  ].filter(([, value]) => value);
  const focused = document.activeElement?.id;
  fill(parts.detail,
    make("div", { className: "steps" },
      make("button", { type: "button", className: "back", id: "close-item", onclick: () => { go({ item: "" }); parts.list.focus(); } }, "Back to the list"),
      step(-1, "\u2191", "The item before"), step(1, "\u2193", "The next item"),
      make("span", { className: `badge ${outcome.key}` }, `${outcome.mark} ${outcome.label}`)),
    make("h2", {}, asked ? "Question" : "Item"),
    asked
      ? make("p", { className: "asked", id: "question" }, asked)
      : make("p", { className: "notice", id: "question" }, `The question of ${facts.item[at]} wasn't kept${facts.prompt?.[at] ? `; its prompt's hash is ${facts.prompt[at]}` : ""}. Scores that are made anew keep it.`),
    pictureBox(facts, at, task),
    task.suite === "corrupted" && facts.image?.[at] ? make("p", { className: "hint" }, "The picture is shown without its corruption.") : null,
    choiceTable(part, at),
    answerBox(part, at, task),
    make("dl", { className: "facts" }, told.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]).flat()),
    others(part, at, task));
  if (focused?.startsWith("step-")) byId(focused)?.focus();
}

function pictureBox(facts, at, task) {
  const name = facts.image?.[at];
  if (!name) return null;
  const box = make("figure", { id: "picture" });
  pictureOf(facts, at).then(
    (picture) => fill(box,
      picture
        ? make("img", { src: picture, alt: `The picture ${name} that the question is about` })
        : make("p", { className: "notice" }, index.pictures.kept
          ? `The picture isn't in this page: ${count(index.pictures.kept)} of ${count(index.pictures.asked)} are.`
          : "Pictures aren't in this page; explorer.images in the study puts them there."),
      make("figcaption", {}, name)),
    (error) => fill(box, make("p", { className: "notice error" }, `Error: ${error.message}`)));
  return box;
}

function shares(values) {
  const known = values.filter((value) => value !== null);
  const most = Math.max(...known);
  const total = known.reduce((sum, value) => sum + Math.exp(value - most), 0);
  return values.map((value) => (value === null ? null : Math.exp(value - most) / total));
}

function isRight(choice, reference) {
  return `; ${reference}; `.includes(`; ${choice}; `);
}

function choiceTable({ facts, said, task }, at) {
  const choices = choicesOf(facts, said[0], at);
  const values = said.map((answers) => likelihoodsOf(facts, answers, at));
  if (!choices.length || !values.some(Boolean)) return null;
  const several = choices.length > 1;
  const parts = values.map((own) => (own && several ? shares(own) : null));
  const reference = facts.reference?.[at] ?? "";
  const cell = (side, place) => {
    const value = values[side]?.[place];
    if (value === undefined || value === null) return make("td", { className: "value" }, "\u2013");
    const chosen = said[side].said[at] === -2 - place;
    const bar = make("i", { className: "a b".split(" ")[side] });
    if (several) bar.style.width = `${parts[side][place] * 100}%`;
    return make("td", { className: `value${chosen ? " said" : ""}` },
      several ? make("span", { className: "track", "aria-hidden": "true" }, bar) : null,
      make("span", {}, several ? `${number(parts[side][place] * 100)} %` : ""),
      make("small", {}, `${number(value, 2)}${chosen ? " \u2190" : ""}`),
      chosen ? make("span", { className: "unseen" }, "chosen") : null);
  };
  return make("div", { className: "scroller", tabIndex: 0, role: "region", "aria-label": "Choices" },
    make("table", { className: "choices-table", id: "choices" },
      make("caption", {}, several ? "Share of the likelihood among the choices, and log-likelihood; \u2190 is the answer, \u2713 is right" : "Log-likelihood"),
      make("thead", {}, make("tr", {}, make("th", { scope: "col", className: "name" }, "Choice"), ["A", "B"].map((side) => make("th", { scope: "col" }, make("b", { className: `mark ${side.toLowerCase()}` }, side))))),
      make("tbody", {}, choices.map((choice, place) => {
        const right = several && index.tasks[task].suite === "text" && isRight(choice, reference);
        return make("tr", { className: right ? "correct" : "" },
          make("th", { scope: "row", className: "name" }, right ? make("span", { className: "tick" }, "\u2713 ") : null, right ? make("span", { className: "unseen" }, "right: ") : null, choice),
          cell(0, place), cell(1, place));
      }))));
}

function answerBox({ facts, said, left, right }, at, task) {
  const scores = [left[at], right[at]];
  const shown = (side) => {
    const answers = said[side];
    const text = saidOf(facts, answers, at);
    const more = [["Said in full", answers.generated?.[at]], ["Scored as", answers.parsed?.[at]], ["Tokens cut from its prompt", answers.truncated?.[at]]].filter(([, value]) => value !== undefined);
    return make("div", { className: `answer ${"ab"[side]}` },
      make("h3", {}, make("b", { className: `mark ${"ab"[side]}` }, "AB"[side]), ` ${index.runs[runNumber.get(state["ab"[side]])].name}`),
      make("p", { className: "said" }, text === "" ? "(nothing)" : text),
      more.map(([name, value]) => make("p", { className: "more" }, make("span", {}, `${name}: `), String(value))),
      make("p", { className: "score" }, task.binary ? ((scores[side] === 1) === task.better ? "\u2713 right" : "\u2715 wrong") : `${task.metric_label} ${number(scores[side], 3)}`));
  };
  const references = facts.references?.[at];
  return [
    make("div", { className: "answered" }, shown(0), shown(1)),
    make("h3", {}, references?.length > 1 ? "References" : "Reference"),
    references
      ? make("ul", { className: "reference", id: "reference" }, references.map((text) => make("li", {}, text)))
      : make("p", { className: "reference", id: "reference" }, facts.reference?.[at] ?? "\u2013"),
  ];
}

// Scores of the other runs are read only when somebody wants to see them.
function others(part, at, task) {
  const table = make("tbody", {});
  const box = make("details", { className: "others", id: "others" }, make("summary", {}, "This item in all runs"), make("table", {}, table));
  box.addEventListener("toggle", async () => {
    if (!box.open || table.rows.length) return;
    const scores = await Promise.all(task.runs.map((run) => scoresOf(run, part.task)));
    fill(table, task.runs.map((run, place) => {
      const value = scores[place][at];
      const told = Number.isNaN(value) ? "\u2013" : task.binary ? (value === 1 ? "\u2713" : "\u2715") : number(value, 3);
      return make("tr", {}, make("th", { scope: "row", className: "name" }, index.runs[run].name), make("td", { className: "value" }, told));
    }));
  });
  return box;
}
