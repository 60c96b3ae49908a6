// What is shown hangs on the address alone, so that a view can be linked to and gone back to.

const DEFAULTS = {
  view: "runs", a: "", b: "", // the two runs
  find: "", kind: "", base: "", source: "", tuning: "", seed: "", kinds: "", sort: "", columns: "",
  task: "", show: "all", q: "", order: "item", item: "",
};
let state = read();
let draw = () => {};

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const made = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) if (given.has(key)) made[key] = given.get(key);
  return made;
}

function address(changes = {}) {
  const wanted = { ...state, ...changes };
  const told = new URLSearchParams();
  for (const [key, value] of Object.entries(wanted)) if (value !== DEFAULTS[key]) told.set(key, value);
  return `#${told}`;
}

// Changes what is shown. What is typed replaces the address, all else can be gone back from.
function go(changes, { replace = false } = {}) {
  const next = address(changes);
  const now = location.hash || "#";
  state = { ...state, ...changes };
  if (next !== now) {
    if (replace) history.replaceState(null, "", next);
    else history.pushState(null, "", next);
  }
  draw();
}

function followAddress() {
  // The link past the header is no view.
  if (location.hash === "#main") {
    history.replaceState(null, "", address());
    return;
  }
  state = read();
  draw();
}
window.addEventListener("popstate", followAddress);
