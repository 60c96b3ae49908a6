// Elements. All texts of data sets and models become text nodes: nothing is ever read as markup.

const NARROW = matchMedia("(max-width: 760px)"); // As in the style sheet.

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list" && !key.includes("-")) element[key] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

function say(text) {
  byId("status").textContent = text;
}

function number(value, digits = 1) {
  if (value === null || value === undefined || Number.isNaN(value)) return "\u2013";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? (0).toFixed(digits) : text).replace("-", "\u2212");
}

function signed(value, digits = 1) {
  const text = number(value, digits);
  return value > 0 && Number(value.toFixed(digits)) !== 0 ? `+${text}` : text;
}

function count(value) {
  return value === null ? "\u2013" : value.toLocaleString("en");
}

function short(value) {
  if (value === null) return "\u2013";
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
  }
  return String(value);
}

function option(value, text, chosen) {
  return make("option", { value, selected: value === chosen }, text);
}

function labelled(text, control, extra = "") {
  return make("label", { className: `field ${extra}` }, make("span", {}, text), control);
}
