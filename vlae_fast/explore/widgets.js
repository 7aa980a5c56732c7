// Parts of the page that know nothing of the model: requests, pixels on a canvas, sliders.

const token = new URLSearchParams(location.hash.slice(1)).get("token");

export const $ = (id) => document.getElementById(id);

export async function ask(what, values = {}) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(`/api/${what}`, { method: "POST", headers, body: JSON.stringify(values) });
  } catch {
    throw new Error("The server does not answer: it may have been stopped. Start it again and reload this page.");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

export function say(error) {
  $("error").textContent = error ? error.message : "";
  $("error").hidden = !error;
}

export const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

export function textOf(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

// Puts bytes on a canvas, `scale` of its pixels for one of the image.
export function paint(canvas, bytes, [height, width], channels, scale = 1) {
  const small = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) small.data[4 * i + c] = bytes[channels * i + (channels === 3 ? c : 0)];
    small.data[4 * i + 3] = 255;
  }
  const off = new OffscreenCanvas(width, height);
  off.getContext("2d").putImageData(small, 0, 0);
  if (canvas.width !== width * scale || canvas.height !== height * scale) {
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.aspectRatio = `${width} / ${height}`;
  }
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(off, 0, 0, width * scale, height * scale);
  return context;
}

// Bytes of a picture file: its middle cut to the ratio of the image, scaled, over white, grey where there is one channel.
export async function bytesOfFile(file, [height, width], channels, invert) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name}: must be a picture that this browser can read`);
  }
  const scale = Math.min(picture.width / width, picture.height / height);
  const [w, h] = [scale * width, scale * height];
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const bytes = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const rgb = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    const values = channels === 3 ? rgb : [0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]];
    values.forEach((value, c) => (bytes[channels * i + c] = invert ? 255 - value : value));
  }
  return bytes;
}

// A line of the list of sliders: name, slider, value, bits. `moved(value)` is called at each move.
export function slider({ dim, bits, low, high }, value, most, moved) {
  const line = document.createElement("li");
  const label = Object.assign(document.createElement("label"), { htmlFor: `z${dim}`, textContent: `z${dim}` });
  const digits = Math.max(0, -Math.floor(Math.log10((high - low) / 100))); // 100 to 1000 steps, the ends among them
  const step = 10 ** -digits;
  const input = Object.assign(document.createElement("input"), { type: "range", id: `z${dim}` });
  input.min = (Math.floor(low / step) * step).toFixed(digits);
  input.max = (Math.ceil(high / step) * step).toFixed(digits);
  input.step = step.toFixed(digits);
  input.setAttribute("aria-label", `Dimension ${dim}, ${bits.toFixed(2)} bits`);
  const shown = Object.assign(document.createElement("output"), { htmlFor: `z${dim}` });
  const share = Object.assign(document.createElement("span"), { className: "bits", textContent: `${bits.toFixed(2)} bits` });
  share.style.setProperty("--share", `${Math.max(0, (100 * bits) / most)}%`);
  const show = (v) => {
    shown.textContent = v.toFixed(Math.max(2, digits));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => {
    show(input.valueAsNumber);
    moved(input.valueAsNumber);
  });
  line.append(label, input, shown, share);
  const set = (v) => {
    input.value = v;
    show(v);
  };
  set(value);
  return { line, set };
}

// Calls `done(x, y)` with places from 0 to 1 while the pointer is down on a canvas.
export function pressed(canvas, done) {
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    done((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    at(event);
  });
  canvas.addEventListener("pointermove", (event) => event.buttons & 1 && at(event));
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// Calls `moved(dx, dy)` at an arrow key on an element, and `pushed()` at space or enter.
export function keys(element, moved, pushed = () => {}) {
  element.addEventListener("keydown", (event) => {
    if (event.key in STEPS) moved(...STEPS[event.key]);
    else if (event.key === " " || event.key === "Enter") pushed();
    else return;
    event.preventDefault();
  });
}
