// Data: the index, and blocks that are unpacked when they are asked for (see blocks.py).

const index = JSON.parse(document.getElementById("index").textContent);
const nonce = document.currentScript.nonce;
const arrived = new Map();
const files = new Map();
const unpacked = new Map();
const KEPT_BLOCKS = 600;

window.explorerBlocks = (held) => {
  for (const [name, text] of Object.entries(held)) arrived.set(name, text);
};

// The header of a block, with its arrays by name; kept, as looking at items asks again and again.
function load(name) {
  let found = unpacked.get(name);
  if (!found) {
    found = encoded(name).then(inflated).then(parsed);
    found.catch(() => unpacked.delete(name));
    if (unpacked.size >= KEPT_BLOCKS) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(name, found);
  }
  return found;
}

async function encoded(name) {
  if (index.beside) {
    const file = name.split("-").slice(0, 2).join("-");
    if (!files.has(file)) files.set(file, loadFile(file));
    await files.get(file);
    if (arrived.has(name)) return arrived.get(name);
  } else {
    const element = document.getElementById(name);
    if (element) return element.textContent;
  }
  throw new Error(`the page lacks its data ${name}; make it again with sight explore`);
}

// A page from a disk may load scripts from there, but fetch nothing.
function loadFile(file) {
  const path = `${index.beside}/${file}.js`;
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.nonce = nonce;
    script.src = `${encodeURIComponent(index.beside)}/${file}.js`;
    script.onload = done;
    script.onerror = () => {
      files.delete(file);
      failed(new Error(`${path} can't be loaded; keep that folder beside this page`));
    };
    document.head.append(script);
  });
}

async function inflated(text) {
  const bytes = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(text)
    : Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function parsed(bytes) {
  let end = 4 + new DataView(bytes.buffer).getUint32(0, true);
  const block = JSON.parse(new TextDecoder().decode(bytes.subarray(4, end)));
  const kinds = { int16: Int16Array, int32: Int32Array, float32: Float32Array, uint8: Uint8Array };
  for (const [name, kind, length] of block.arrays) {
    const width = kinds[kind].BYTES_PER_ELEMENT;
    const whole = new Uint8Array(length * width);
    for (let plane = 0; plane < width; plane++) {
      for (let at = 0; at < length; at++) whole[at * width + plane] = bytes[end + plane * length + at];
    }
    block[name] = new kinds[kind](whole.buffer);
    end += length * width;
  }
  return block;
}

const runNumber = new Map(index.runs.map((run, number) => [run.run, number]));
const taskNumber = new Map(index.tasks.map((task, number) => [taskKey(task), number]));

function taskKey(task) {
  return `${task.suite}/${task.benchmark}/${task.metric}`;
}

async function factsOf(task) {
  const facts = await load(`items-${task}`);
  if (!facts.starts) {
    facts.starts = new Int32Array(facts.item.length + 1);
    facts.choice_count.forEach((count, at) => (facts.starts[at + 1] = facts.starts[at] + count));
  }
  return facts;
}

async function scoresOf(run, task) {
  return (await load(`scores-${run}`))[task];
}

async function answersOf(run, task) {
  const [answers, facts] = await Promise.all([load(`answers-${run}-${task}`), factsOf(task)]);
  if (!answers.starts) {
    answers.starts = facts.starts;
    if (answers.choices) {
      answers.starts = new Int32Array(facts.item.length + 1);
      facts.item.forEach((_, at) => {
        const own = answers.choices[at];
        answers.starts[at + 1] = answers.starts[at] + (own ? own.length : facts.choice_count[at]);
      });
    }
  }
  return answers;
}

function choicesOf(facts, answers, at) {
  return (answers && answers.choices && answers.choices[at]) || (facts.choices && facts.choices[at]) || [];
}

// What a run said about an item, as text; null where it wasn't asked.
function saidOf(facts, answers, at) {
  const code = answers.said[at];
  if (code === -1) return null;
  return code >= 0 ? answers.texts[code] : choicesOf(facts, answers, at)[-2 - code];
}

function likelihoodsOf(facts, answers, at) {
  if (!answers.loglikelihoods) return null;
  const values = answers.loglikelihoods.subarray(answers.starts[at], answers.starts[at + 1]);
  if (!values.some((value) => value !== -32768)) return null;
  return Array.from(values, (value) => (value === -32768 ? null : value * answers.step));
}

// A picture as a data: address; null where there is none.
async function pictureOf(facts, at) {
  const number = facts.picture ? facts.picture[at] : -1;
  if (number < 0) return null;
  let group = 0;
  while (index.pictures.firsts[group + 1] <= number) group++;
  const block = await load(`pictures-${group}`);
  const place = number - index.pictures.firsts[group];
  let start = 0;
  for (let before = 0; before < place; before++) start += block.sizes[before];
  let text = "";
  block.bytes.subarray(start, start + block.sizes[place]).forEach((byte) => {
    text += String.fromCharCode(byte);
  });
  return `data:image/webp;base64,${btoa(text)}`;
}
