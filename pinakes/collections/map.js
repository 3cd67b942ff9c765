const points = JSON.parse(document.getElementById("points").textContent);
const count = points.x.length;
const canvas = document.getElementById("map"), pen = canvas.getContext("2d");
const card = document.getElementById("card"), cardCanvas = card.querySelector("canvas");
const picturesBox = document.getElementById("pictures"), find = document.getElementById("find"), found = document.getElementById("found");
const legend = [...document.querySelectorAll(".legend button")];
const dark = matchMedia("(prefers-color-scheme: dark)");
const largest = values => values.reduce((most, value) => Math.max(most, value), 1);
const width = largest(points.x), height = largest(points.y);

// thumbnails: the place of an image among them, and the sheet that holds it
const thumbnail = new Int32Array(count).fill(-1);
if (points.pictured) points.pictured.forEach((index, place) => thumbnail[index] = place);
else for (let index = 0; index < count; index++) thumbnail[index] = index;
const perSheet = points.columns ** 2;
const sheets = points.sheets.map(uri => Object.assign(new Image(), {src: uri, onload: redraw}));

function drawThumbnail(to, index, left, top, side) {
  const place = thumbnail[index], sheet = sheets[Math.floor(place / perSheet)];
  if (place < 0 || !sheet.complete || !sheet.naturalWidth) return false;
  const within = place % perSheet, [w, h] = [points.sizes[2 * place], points.sizes[2 * place + 1]];
  const scale = side / Math.max(w, h);
  to.imageSmoothingEnabled = scale < 2.5;
  to.drawImage(sheet, within % points.columns * points.side, Math.floor(within / points.columns) * points.side, w, h,
    left + (side - w * scale) / 2, top + (side - h * scale) / 2, w * scale, h * scale);
  return true;
}

// colours: hues at equal distances, in two lightnesses where there are many
let colours = [], soft = "", ink = "", paper = "", accent = "";
function settleColours() {
  const style = getComputedStyle(document.documentElement);
  [soft, ink, paper, accent] = ["--soft", "--ink", "--paper", "--accent"].map(name => style.getPropertyValue(name).trim());
  const many = points.classes.length, turns = many > 12 ? Math.ceil(many / 2) : many;
  colours = points.classes.map((_, kind) => {
    const second = kind >= turns, hue = 360 * (kind % turns + (second ? 0.5 : 0)) / turns + 20;
    const light = (dark.matches ? 0.74 : 0.6) + (second ? (dark.matches ? -0.16 : -0.14) : 0);
    return `oklch(${light} 0.16 ${hue})`;
  });
  legend.forEach((button, kind) => button.querySelector("i").style.background = colours[kind]);
}
const colour = index => points.kinds.length && points.kinds[index] >= 0 ? colours[points.kinds[index]] : points.classes.length ? soft : accent;

// which images stand out
let chosen = new Set(), words = "", hovered = -1;
const standsOut = index => (!chosen.size || chosen.has(points.kinds[index])) && (!words || lower[index].includes(words));
const lower = points.names.map(name => name.toLowerCase());
const order = Uint32Array.from({length: count}, (_, index) => index);
for (let index = count - 1, state = 1; index > 0; index--) { // no class lies on top of the others
  state = (state * 1103515245 + 12345) % 2147483648;
  const other = state % (index + 1);
  [order[index], order[other]] = [order[other], order[index]];
}

// what is seen: a point at (x, y) of the map is drawn at (x * zoom + left, y * zoom + top)
let zoom = 1, left = 0, top_ = 0, least = 1, across = 0, down = 0;
function whole() {
  const margin = 28;
  least = Math.min((across - 2 * margin) / width, (down - 2 * margin) / height);
  zoom = least;
  [left, top_] = [(across - width * zoom) / 2, (down - height * zoom) / 2];
  redraw();
}
function zoomAt(x, y, factor) {
  const next = Math.min(Math.max(zoom * factor, least * 0.5), least * 400);
  [left, top_] = [x - (x - left) * next / zoom, y - (y - top_) * next / zoom];
  zoom = next;
  redraw();
}
function resize() {
  const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1, first = !across;
  const [x, y] = [(across / 2 - left) / zoom, (down / 2 - top_) / zoom], relative = zoom / least;
  [across, down] = [box.width, box.height];
  [canvas.width, canvas.height] = [Math.round(across * ratio), Math.round(down * ratio)];
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  whole();
  if (!first && relative !== 1) {
    zoom = least * relative;
    [left, top_] = [across / 2 - x * zoom, down / 2 - y * zoom];
    redraw();
  }
}

let asked = false;
function redraw() {
  if (!asked) requestAnimationFrame(() => { asked = false; draw(); });
  asked = true;
}
function draw() {
  pen.clearRect(0, 0, across, down);
  const radius = Math.min(6, Math.max(1.6, 34 / Math.sqrt(count)) * Math.sqrt(Math.max(1, zoom / least)) + 1);
  const side = points.side > 64 ? 56 : Math.max(36, points.side), taken = new Set();
  const limited = chosen.size > 0 || words !== "";
  for (const pass of limited ? [false, true] : [true]) {
    for (const index of order) {
      if (limited && standsOut(index) !== pass) continue;
      const x = points.x[index] * zoom + left, y = points.y[index] * zoom + top_;
      if (x < -side || y < -side || x > across + side || y > down + side) continue;
      if (pass && picturesBox.checked && thumbnail[index] >= 0) {
        const cell = Math.floor((x - left % side) / side) + ":" + Math.floor((y - top_ % side) / side);
        if (!taken.has(cell)) {
          taken.add(cell);
          if (drawThumbnail(pen, index, x - side / 2, y - side / 2, side - 4)) continue;
        } else continue;
      }
      pen.globalAlpha = pass ? 0.8 : 0.13;
      pen.fillStyle = pass ? colour(index) : soft;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  if (hovered >= 0) {
    pen.lineWidth = 2;
    pen.strokeStyle = ink;
    pen.beginPath();
    pen.arc(points.x[hovered] * zoom + left, points.y[hovered] * zoom + top_, radius + 3, 0, 7);
    pen.stroke();
  }
}

// hovering: the nearest point, looked for in cells of the map
const cells = new Map(), grain = 100;
for (let index = 0; index < count; index++) {
  const key = Math.floor(points.x[index] / grain) * 1000 + Math.floor(points.y[index] / grain);
  if (cells.has(key)) cells.get(key).push(index); else cells.set(key, [index]);
}
function nearest(x, y, reach) {
  const limited = chosen.size > 0 || words !== "", far = reach / zoom;
  const [u, v] = [(x - left) / zoom, (y - top_) / zoom];
  let best = -1, least = far * far;
  for (let a = Math.floor((u - far) / grain); a <= Math.floor((u + far) / grain); a++)
    for (let b = Math.floor((v - far) / grain); b <= Math.floor((v + far) / grain); b++)
      for (const index of cells.get(a * 1000 + b) || []) {
        const distance = (points.x[index] - u) ** 2 + (points.y[index] - v) ** 2;
        if (distance < least && (!limited || standsOut(index))) [best, least] = [index, distance];
      }
  return best;
}
function show(index) {
  if (index !== hovered) { hovered = index; redraw(); }
  card.hidden = index < 0;
  if (index < 0) return;
  const ratio = devicePixelRatio || 1, place = thumbnail[index];
  const side = 144, [w, h] = place < 0 ? [1, 1] : [points.sizes[2 * place], points.sizes[2 * place + 1]];
  const scale = side / Math.max(w, h);
  cardCanvas.hidden = place < 0;
  if (place >= 0) {
    [cardCanvas.style.width, cardCanvas.style.height] = [`${w * scale}px`, `${h * scale}px`];
    [cardCanvas.width, cardCanvas.height] = [Math.round(w * scale * ratio), Math.round(h * scale * ratio)];
    const to = cardCanvas.getContext("2d");
    to.scale(ratio, ratio);
    to.translate(-(side - w * scale) / 2, -(side - h * scale) / 2);
    drawThumbnail(to, index, 0, 0, side);
  }
  const kind = points.kinds.length ? points.kinds[index] : -1;
  card.querySelector("b").textContent = kind >= 0 ? points.classes[kind] : "";
  card.querySelector("figcaption span").textContent = points.names[index];
  const [x, y] = [points.x[index] * zoom + left, points.y[index] * zoom + top_];
  const [a, b] = [card.offsetWidth, card.offsetHeight];
  const beside = x + 16 + a < across ? x + 16 : x - 16 - a, below = y + 16 + b < down ? y + 16 : y - 16 - b;
  card.style.transform = `translate(${Math.max(4, beside)}px, ${Math.max(4, below)}px)`;
}

const touches = new Map();
let moved = 0;
const at = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); touches.set(event.pointerId, at(event)); moved = 0; });
canvas.addEventListener("pointermove", event => {
  const [x, y] = at(event), before = touches.get(event.pointerId);
  if (!before) return show(nearest(x, y, 14));
  const others = [...touches].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  if (others.length) {
    const [ox, oy] = others[0];
    zoomAt(ox, oy, Math.hypot(x - ox, y - oy) / Math.max(1, Math.hypot(before[0] - ox, before[1] - oy)));
  } else {
    moved += Math.hypot(x - before[0], y - before[1]);
    [left, top_] = [left + x - before[0], top_ + y - before[1]];
    canvas.classList.toggle("dragged", moved > 3);
    redraw();
  }
  if (moved > 3) show(-1);
  touches.set(event.pointerId, [x, y]);
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => {
  touches.delete(event.pointerId);
  canvas.classList.remove("dragged");
  if (moved <= 3) show(nearest(...at(event), 24));
});
canvas.addEventListener("pointerleave", () => touches.size || show(-1));
canvas.addEventListener("wheel", event => { event.preventDefault(); show(-1); zoomAt(...at(event), Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018))); }, {passive: false});
canvas.addEventListener("dblclick", event => zoomAt(...at(event), 2.5));
canvas.addEventListener("keydown", event => {
  const step = 60, moves = {ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step]}[event.key];
  if (moves) { [left, top_] = [left + moves[0], top_ + moves[1]]; redraw(); }
  else if (event.key === "+" || event.key === "=") zoomAt(across / 2, down / 2, 1.4);
  else if (event.key === "-") zoomAt(across / 2, down / 2, 1 / 1.4);
  else if (event.key === "0") whole();
  else return;
  event.preventDefault();
});
document.getElementById("nearer").addEventListener("click", () => zoomAt(across / 2, down / 2, 1.6));
document.getElementById("farther").addEventListener("click", () => zoomAt(across / 2, down / 2, 1 / 1.6));
document.getElementById("whole").addEventListener("click", whole);
picturesBox.addEventListener("change", redraw);
find.addEventListener("input", () => {
  words = find.value.trim().toLowerCase();
  const hits = words ? lower.reduce((sum, name) => sum + name.includes(words), 0) : 0;
  found.textContent = words ? `${hits.toLocaleString("en")} found` : "";
  redraw();
});
legend.forEach((button, kind) => button.addEventListener("click", () => {
  if (!chosen.delete(kind)) chosen.add(kind);
  button.setAttribute("aria-pressed", String(chosen.has(kind)));
  redraw();
}));
dark.addEventListener("change", () => { settleColours(); redraw(); });
new ResizeObserver(resize).observe(canvas);
settleColours();
resize();
