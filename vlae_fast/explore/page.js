import { $, ask, bytesOf, bytesOfFile, keys, paint, pressed, say, slider, textOf } from "./widgets.js";

let model, state, drawn, corners; // drawn: the bytes that are shown; corners: of the plane, where there is one
const sliders = new Map(); // dimension -> its slider
const cursor = { x: 0, y: 0 };

const seed = () => Math.floor(Math.random() * 2 ** 32);

// At most one draw is under way; moves that come meanwhile are one more draw.
let busy = false;
let again = false;
async function redraw() {
  again = true;
  if (busy) return;
  busy = true;
  try {
    while (again) {
      again = false;
      if (!$("keep").checked) state.seed = seed();
      const start = performance.now();
      const answer = await ask("draw", values());
      show(bytesOf(answer.pixels));
      const around = performance.now() - start;
      $("time").textContent = `drawn in ${answer.ms.toFixed(2)} ms · on the page after ${around.toFixed(0)} ms`;
      $("image").dataset.draws = 1 + Number($("image").dataset.draws || 0);
      sayFixed(answer.fits ? "" : " Free pixels above a fixed one were drawn without regard to it: find a code that fits.");
      say(null);
    }
  } catch (error) {
    say(error);
  }
  busy = false;
}

function values() {
  const fixed = [...state.fixed].map(([at, bytes]) => [at, ...bytes]);
  const mean = $("show").value === "mean" && !fixed.length;
  return { z: state.z, label: state.label, seed: state.seed, temperature: $("temperature").valueAsNumber, fixed, mean };
}

function show(bytes) {
  drawn = bytes;
  const [height, width] = model.size;
  const scale = Math.max(1, Math.round(560 / Math.max(height, width)));
  const context = paint($("image"), bytes, model.size, model.channels, scale);
  context.fillStyle = "#e8590c";
  for (const at of state.fixed.keys()) {
    const [x, y, side] = [(at % width) * scale, Math.floor(at / width) * scale, Math.max(1, Math.round(scale / 4))];
    context.fillRect(x + (scale - side) / 2, y + (scale - side) / 2, side, side);
  }
  if (document.activeElement === $("image")) {
    context.strokeStyle = "#2b8ae0";
    context.lineWidth = 2;
    context.strokeRect(cursor.x * scale + 1, cursor.y * scale + 1, scale - 2, scale - 2);
  }
}

function sayFixed(more) {
  const n = state.fixed.size;
  $("fixed-about").textContent = n ? `${n} fixed.${more}` : "";
  $("complete").disabled = $("free").disabled = !n;
  $("show").disabled = n > 0;
}

function setCode(z) {
  state.z = z;
  for (const [dim, { set }] of sliders) set(z[dim]);
  showPoint();
}

// A button's work: refused while it goes on, its error shown.
function work(id, done) {
  $(id).addEventListener("click", async () => {
    $(id).setAttribute("aria-busy", "true");
    try {
      say(null);
      await done();
    } catch (error) {
      say(error);
    }
    $(id).removeAttribute("aria-busy");
  });
}

function fix(x, y) {
  const [height, width] = model.size;
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  const at = y * width + x;
  const brush = document.querySelector("input[name=brush]:checked").value;
  const colour = $("colour").value.match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
  const grey = Math.round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]);
  const bytes = {
    light: Array(model.channels).fill(255),
    dark: Array(model.channels).fill(0),
    drawn: state.fixed.get(at) || [...drawn.slice(at * model.channels, (at + 1) * model.channels)],
    colour: model.channels === 3 ? colour : [grey],
  }[brush];
  const was = state.fixed.get(at);
  if (String(was) === String(bytes)) return;
  if (bytes) state.fixed.set(at, bytes);
  else state.fixed.delete(at);
  $("place").textContent = `row ${y + 1}, column ${x + 1}: ${bytes ? "fixed" : "free"}`;
  redraw();
}

async function encode(what, about) {
  const found = await ask("encode", { ...what, label: state.label });
  if (model.classes && found.label !== null) state.label = $("label").value = found.label;
  setCode(found.z);
  paint($("original-image"), bytesOf(found.pixels), model.size, model.channels);
  $("original-about").textContent = about;
  $("original").hidden = false;
  redraw();
}

let first = 0;
async function choices() {
  const { images } = await ask("choices", { start: first });
  first += images.length;
  $("choices").replaceChildren(
    ...images.map(({ row, label, pixels }) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      const canvas = document.createElement("canvas");
      const about = `${model.data} ${model.split} ${row}` + (label === null ? "" : `, class ${label}`);
      paint(canvas, bytesOf(pixels), model.size, model.channels);
      button.append(canvas);
      button.title = about;
      button.setAttribute("aria-label", `Encode ${about}`);
      button.addEventListener("click", () => {
        for (const other of $("choices").children) other.setAttribute("aria-pressed", other === button);
        encode({ row }, about).catch(say);
      });
      return button;
    }),
  );
}

async function plane() {
  const found = await ask("plane", { label: state.label, seed: state.seed });
  const bytes = bytesOf(found.pixels);
  corners = { ...found, bytes, scale: Math.max(1, Math.round(672 / Math.max(...found.size))) };
  showPoint();
}

function showPoint() {
  if (!corners) return;
  const { low, high, bytes, size, scale } = corners;
  const context = paint($("plane-image"), bytes, size, model.channels, scale);
  const part = [0, 1].map((d) => (state.z[d] - low[d]) / (high[d] - low[d]));
  context.beginPath();
  context.arc(part[0] * size[1] * scale, (1 - part[1]) * size[0] * scale, 9, 0, 7);
  context.lineWidth = 4;
  context.strokeStyle = "#e8590c";
  context.stroke();
}

function goTo(z) {
  setCode(z);
  redraw();
}

function inWords() {
  const carrying = model.dims.filter((d) => d.carries);
  const bits = model.dims.reduce((sum, d) => sum + d.bits, 0);
  $("name").textContent = model.name;
  document.title = `${model.name} · vlae-fast explore`;
  const size = `${model.size.join(" × ")}, ${model.channels === 3 ? "colour" : model.levels === 2 ? "black and white" : "grey"}`;
  $("about").textContent = `${size} · ${model.steps} ${model.steps === 1 ? "step" : "steps"} an image · backend ${model.backend}`;
  $("code-about").textContent = model.latent_dim
    ? `${carrying.length} of ${model.latent_dim} dimensions carry bits, ${bits.toFixed(1)} an image in all: KL(q(z | x), p(z)), mean over images of ${model.data}. Most used first.`
    : "This model has no code: what you fix is all that it is told.";
  $("choices-about").textContent = `Images of ${model.data}, ${model.split}: ${model.images.toLocaleString("en")}.`;
}

function build() {
  const most = Math.max(...model.dims.map((d) => d.bits), 1e-9);
  for (const dim of model.dims) {
    const moved = (value) => {
      state.z[dim.dim] = value;
      showPoint();
      redraw();
    };
    const made = slider(dim, state.z[dim.dim], most, moved);
    sliders.set(dim.dim, made);
    (dim.carries ? $("carrying") : $("others").querySelector("ol")).append(made.line);
  }
  const silent = model.dims.filter((d) => !d.carries).length;
  $("others").hidden = !silent;
  $("others").querySelector("summary").textContent = `${silent} ${silent === 1 ? "dimension" : "dimensions"} that carry less than 0.05 bits`;
  $("label-row").hidden = !model.classes;
  $("label").replaceChildren(...Array.from({ length: model.classes }, (_, c) => new Option(c, c)));
  $("colour-brush").hidden = model.levels === 2;
  $("show").value = model.means ? "mean" : "draw";
  $("encode").hidden = $("from-prior").hidden = $("centre").hidden = !model.latent_dim;
  $("plane").hidden = !model.plane;
}

function listen() {
  work("new-noise", () => ((state.seed = seed()), redraw()));
  work("from-prior", async () => goTo((await ask("prior", { seed: seed() })).z));
  work("centre", () => goTo([...model.z]));
  work("more", choices);
  work("free", () => (state.fixed.clear(), redraw()));
  work("complete", async () => {
    const found = await ask("complete", { ...values(), seed: seed() });
    setCode(found.z);
    show(bytesOf(found.pixels));
    $("time").textContent = `completed in ${found.ms.toFixed(0)} ms`;
    sayFixed(" Image and code fit them.");
  });
  $("temperature").addEventListener("input", ({ target }) => {
    target.nextElementSibling.textContent = target.valueAsNumber.toFixed(2);
    redraw();
  });
  $("show").addEventListener("change", redraw);
  $("label").addEventListener("change", ({ target }) => {
    state.label = Number(target.value);
    redraw();
    if (model.plane) plane().catch(say);
  });
  $("file").addEventListener("change", ({ target }) => {
    const file = target.files[0];
    if (!file) return;
    bytesOfFile(file, model.size, model.channels, $("invert").checked)
      .then((bytes) => encode({ image: textOf(bytes) }, file.name))
      .catch(say);
  });
  $("invert").addEventListener("change", () => $("file").dispatchEvent(new Event("change")));
  const [height, width] = model.size;
  pressed($("image"), (x, y) => {
    [cursor.x, cursor.y] = [Math.floor(x * width), Math.floor(y * height)];
    fix(cursor.x, cursor.y);
  });
  const move = (dx, dy) => {
    cursor.x = Math.min(width - 1, Math.max(0, cursor.x + dx));
    cursor.y = Math.min(height - 1, Math.max(0, cursor.y + dy));
    $("place").textContent = `row ${cursor.y + 1}, column ${cursor.x + 1}`;
    show(drawn);
  };
  keys($("image"), move, () => fix(cursor.x, cursor.y));
  for (const event of ["focus", "blur"]) $("image").addEventListener(event, () => drawn && show(drawn));
  const between = (part) => [0, 1].map((d) => corners.low[d] + part[d] * (corners.high[d] - corners.low[d]));
  pressed($("plane-image"), (x, y) => corners && goTo(between([x, 1 - y])));
  keys($("plane-image"), (dx, dy) => {
    if (corners) goTo([dx, -dy].map((step, d) => state.z[d] + 0.02 * step * (corners.high[d] - corners.low[d])));
  });
}

try {
  model = await ask("model");
  state = { z: [...model.z], label: 0, seed: seed(), fixed: new Map() };
  inWords();
  build();
  listen();
  document.querySelector("main").hidden = false;
  await redraw();
  if (model.latent_dim) await choices();
  if (model.plane) await plane();
} catch (error) {
  say(error);
}
