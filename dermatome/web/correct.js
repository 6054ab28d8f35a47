// The page on which tissue masks are corrected. `labels` has the class of each pixel of the region, `known` whether a
// person touched it; both are painted by shapes in the region's pixels, and every change can be undone.
"use strict";
const IGNORED = 255, UNDO_BYTES = 128 * 2 ** 20;
const get = (id) => document.getElementById(id);
const canvas = get("canvas"), overview = get("overview");
let slide = null; // what the server states of it
let picture = null; // the overview
let region = null; // what is open: box, version, labels, known, image, overlay
let classes = []; // label and colour, in the order of their keys
let view = { scale: 1, left: 0, top: 0 };
let pointer = { x: 0, y: 0 }, corners = [], shown = true, dirty = false, overThere = false;
let undone = [], done = [];

// --- the server

function say(text, bad = false) {
  get("status").textContent = text;
  get("status").className = bad ? "bad" : "";
}

async function ask(what, query, options) {
  const answer = await fetch(`correct/${what}?${new URLSearchParams(query)}`, options);
  if (answer.ok) return answer;
  let text = `The web app answered ${answer.status}: try again.`;
  try { text = (await answer.json()).detail || text; } catch { /* no JSON: the text above */ }
  throw new Error(text);
}

const guarded = (work) => async (...given) => {
  try { await work(...given); } catch (error) { say(error.message, true); }
};

async function imageOf(what, query) {
  return createImageBitmap(await (await ask(what, query)).blob());
}

function fromRuns(runs, into) {
  let at = 0;
  for (let i = 0; i < runs.length; i += 2) {
    into.fill(runs[i], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  return into;
}

function toRuns(values) {
  const runs = [];
  for (let at = 0; at < values.length;) {
    let end = at + 1;
    while (end < values.length && values[end] === values[at]) end++;
    runs.push(values[at], end - at);
    at = end;
  }
  return runs;
}

// --- choosing a slide and a region

const listSlides = guarded(async () => {
  const found = await (await ask("slides", { q: get("slide").value })).json();
  get("slides").replaceChildren(...found.slides.map((name) => new Option(name, name)));
  if (!found.all && !get("slide").value) say("The data root has no slides yet: materialize slide_images.", true);
});

async function showSlide(name) {
  slide = await (await ask("slide", { slide: name })).json();
  picture = await imageOf("overview", { slide: name });
  classes = [...slide.classes.map((one, number) => ({ ...one, number })), { label: "unclear", colour: [128, 128, 128], number: IGNORED }];
  get("side").replaceChildren(...[256, 512, 1024, 2048].map((side) => new Option(side, side)));
  get("side").value = 512;
  get("left").value = Math.max(0, Math.round(slide.width / 2 - 256));
  get("top").value = Math.max(0, Math.round(slide.height / 2 - 256));
  get("where").hidden = false;
  showClasses();
  listSaved();
  drawOverview();
  say(`${slide.slide}: ${slide.width} × ${slide.height} px, ${slide.mpp} µm per pixel; ` +
    (slide.predicted ? "its mask is shown to be corrected." : "it has no mask yet, so the whole region is drawn by hand."));
}

function listSaved() {
  get("saved").replaceChildren(...slide.corrections.map((one) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `Open ${one.width_px} × ${one.height_px} px at ${one.left_px}, ${one.top_px}`;
    button.addEventListener("click", () => openRegion(one.left_px, one.top_px, one.width_px, one.height_px));
    item.append(button, ` saved by ${one.author}, ${one.saved.slice(0, 16).replace("T", " ")} UTC`);
    return item;
  }));
}

function frame() {
  const side = Number(get("side").value) || 512, width = Math.min(side, slide.width), height = Math.min(side, slide.height);
  const within = (id, most) => Math.min(Math.max(0, Math.round(Number(get(id).value)) || 0), most);
  return { left: within("left", slide.width - width), top: within("top", slide.height - height), width, height };
}

function drawOverview() {
  const box = frame(), scale = picture.width / slide.width, pen = overview.getContext("2d");
  overview.width = picture.width;
  overview.height = picture.height;
  pen.drawImage(picture, 0, 0);
  const line = Math.max(2, picture.width / 300);
  const outline = (left, top, width, height, colour) => {
    for (const [thick, shade] of [[line * 2, "#000"], [line, colour]]) {
      pen.lineWidth = thick;
      pen.strokeStyle = shade;
      pen.strokeRect(left * scale, top * scale, width * scale, height * scale);
    }
  };
  slide.corrections.forEach((one) => outline(one.left_px, one.top_px, one.width_px, one.height_px, "#ffb000"));
  outline(box.left, box.top, box.width, box.height, "#00e5ff");
  overview.setAttribute("aria-label", `${slide.slide}; region of ${box.width} px at ${box.left}, ${box.top}`);
}

function moveFrame(left, top) {
  get("left").value = Math.round(left);
  get("top").value = Math.round(top);
  const box = frame();
  get("left").value = box.left;
  get("top").value = box.top;
  drawOverview();
}

const openRegion = guarded(async (left, top, width, height) => {
  if (dirty && !confirm("Leave what is not saved?")) return;
  say("Opening the region …");
  const query = { slide: slide.slide, left, top, width, height };
  const [found, image] = await Promise.all([(async () => (await ask("region", query)).json())(), imageOf("image", query)]);
  const area = found.width * found.height;
  region = { ...found, image, labels: fromRuns(found.labels, new Uint8Array(area)), known: fromRuns(found.known, new Uint8Array(area)) };
  region.predicted = fromRuns(found.predicted, new Uint8Array(area));
  region.overlay = new OffscreenCanvas(found.width, found.height);
  done = []; undone = []; corners = []; dirty = false;
  pointer = { x: found.width / 2, y: found.height / 2 };
  get("confirmed").checked = Boolean(found.earlier && found.earlier.confirmed);
  get("editor").hidden = false;
  paintOverlay(0, 0, found.width, found.height);
  showShare();
  fit();
  const before = found.earlier;
  say(`${slide.slide}, ${found.width} × ${found.height} px at ${found.left}, ${found.top}` +
    (before ? `; saved by ${before.author}, ${before.saved.slice(0, 16).replace("T", " ")} UTC.` : "."));
  canvas.focus({ preventScroll: true });
  get("editor").scrollIntoView({ block: "start" });
});

// --- painting

function showClasses() {
  const kept = chosenClass();
  const entries = classes.map((one, place) => {
    const label = document.createElement("label"), input = document.createElement("input");
    const swatch = document.createElement("span"), key = document.createElement("kbd");
    Object.assign(input, { type: "radio", name: "class", value: one.number, checked: one.number === kept });
    swatch.className = "swatch";
    swatch.style.background = `rgb(${one.colour})`;
    key.textContent = place + 1;
    label.append(input, swatch, ` ${one.label} `, key);
    return label;
  });
  const legend = get("classes").querySelector("legend");
  get("classes").replaceChildren(legend, ...entries);
}

function chosenClass() {
  const input = document.querySelector('input[name="class"]:checked');
  return input ? Number(input.value) : 2;
}

const tool = () => document.querySelector('input[name="tool"]:checked').value;

// Applies `inside(x, y)` in a box of the region as one change that can be undone; or goes on with the last one.
function change(box, inside, goOn = false) {
  const { width, height, labels, known, predicted } = region;
  const left = Math.max(0, Math.floor(box.left)), top = Math.max(0, Math.floor(box.top));
  const right = Math.min(width, Math.ceil(box.right)), bottom = Math.min(height, Math.ceil(box.bottom));
  if (left >= right || top >= bottom) return;
  const rub = tool() === "eraser", value = chosenClass();
  const part = { left, top, right, bottom, labels: cut(labels, left, top, right, bottom), known: cut(known, left, top, right, bottom) };
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      if (!inside(x + 0.5, y + 0.5)) continue;
      const at = y * width + x;
      labels[at] = rub ? predicted[at] : value;
      known[at] = rub ? 0 : 1;
    }
  }
  if (!goOn || !done.length) done.push([]);
  done.at(-1).push(part);
  undone = [];
  dirty = true;
  let bytes = 0;
  const first = done.findLastIndex((parts) => (bytes += parts.reduce((sum, one) => sum + 2 * one.labels.length, 0)) > UNDO_BYTES);
  if (first > 0) done.splice(0, first);
  paintOverlay(left, top, right, bottom);
}

function cut(values, left, top, right, bottom) {
  const out = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) out.set(values.subarray(y * region.width + left, y * region.width + right), (y - top) * (right - left));
  return out;
}

function swap(part) {
  const { left, top, right, bottom } = part, before = { ...part };
  for (const what of ["labels", "known"]) {
    before[what] = cut(region[what], left, top, right, bottom);
    for (let y = top; y < bottom; y++) {
      region[what].set(part[what].subarray((y - top) * (right - left), (y - top + 1) * (right - left)), y * region.width + left);
    }
  }
  paintOverlay(left, top, right, bottom);
  return before;
}

function step(from, to) {
  if (!from.length) return;
  to.push(from.pop().reverse().map(swap));
  dirty = true;
  draw();
}

function stroke(from, to, goOn) {
  const radius = Number(get("brush").value) / 2, dx = to.x - from.x, dy = to.y - from.y, length = dx * dx + dy * dy;
  const box = {
    left: Math.min(from.x, to.x) - radius, right: Math.max(from.x, to.x) + radius,
    top: Math.min(from.y, to.y) - radius, bottom: Math.max(from.y, to.y) + radius,
  };
  // At least the pixel that the pointer is in, however thin the brush.
  const near = Math.max(radius, 0.71) ** 2;
  change(box, (x, y) => {
    const along = length ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / length)) : 0;
    return (x - from.x - along * dx) ** 2 + (y - from.y - along * dy) ** 2 <= near;
  }, goOn);
}

function closePolygon() {
  const points = corners;
  corners = [];
  if (points.length > 2) {
    const box = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
    for (const { x, y } of points) {
      box.left = Math.min(box.left, x); box.right = Math.max(box.right, x);
      box.top = Math.min(box.top, y); box.bottom = Math.max(box.bottom, y);
    }
    change(box, (x, y) => {
      let odd = false;
      for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
        const a = points[i], b = points[j];
        if (a.y > y !== b.y > y && x < (b.x - a.x) * (y - a.y) / (b.y - a.y) + a.x) odd = !odd;
      }
      return odd;
    });
  }
  draw();
}

// --- what is seen

function paintOverlay(left, top, right, bottom) {
  const { width, labels, known, overlay } = region, pixels = new ImageData(right - left, bottom - top);
  const colours = new Uint8Array(256 * 3).fill(128);
  classes.forEach((one) => colours.set(one.colour, one.number * 3));
  for (let y = top, at = 0; y < bottom; y++) {
    for (let x = left; x < right; x++, at += 4) {
      const place = y * width + x, value = labels[place];
      // What nobody touched is paler; nothing is drawn where there is no prediction either.
      pixels.data.set(colours.subarray(value * 3, value * 3 + 3), at);
      pixels.data[at + 3] = known[place] ? 255 : value === IGNORED ? 0 : 110;
    }
  }
  overlay.getContext("2d").putImageData(pixels, left, top);
}

function fit() {
  view.scale = Math.min(canvas.clientWidth / region.width, canvas.clientHeight / region.height);
  view.left = (region.width - canvas.clientWidth / view.scale) / 2;
  view.top = (region.height - canvas.clientHeight / view.scale) / 2;
  draw();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const scale = Math.min(40, Math.max(0.05, view.scale * factor));
  view.left += x / view.scale - x / scale;
  view.top += y / view.scale - y / scale;
  view.scale = scale;
  draw();
}

function draw() {
  if (!region) return;
  const ratio = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  pen.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, -view.left * view.scale * ratio, -view.top * view.scale * ratio);
  pen.imageSmoothingEnabled = view.scale < 2;
  pen.drawImage(region.image, 0, 0);
  if (shown) {
    pen.globalAlpha = Number(get("opacity").value) / 100;
    pen.drawImage(region.overlay, 0, 0);
    pen.globalAlpha = 1;
  }
  const thin = 1.5 / view.scale;
  if (corners.length) {
    pen.beginPath();
    [...corners, pointer].forEach(({ x, y }) => pen.lineTo(x, y));
    for (const [width, colour] of [[thin * 2, "#000"], [thin, "#00e5ff"]]) {
      pen.lineWidth = width;
      pen.strokeStyle = colour;
      pen.stroke();
    }
  }
  if (overThere || document.activeElement === canvas) {
    const radius = tool() === "brush" || tool() === "eraser" ? Math.max(0.7, Number(get("brush").value) / 2) : 4 / view.scale;
    for (const [width, colour] of [[thin * 2, "#000"], [thin, "#fff"]]) {
      pen.beginPath();
      pen.arc(pointer.x, pointer.y, radius, 0, 7);
      pen.lineWidth = width;
      pen.strokeStyle = colour;
      pen.stroke();
    }
  }
  get("undo").disabled = !done.length;
  get("redo").disabled = !undone.length;
  get("brush-px").textContent = get("brush").value;
}

function showShare() {
  const touched = region.known.reduce((sum, one) => sum + one, 0) / region.known.length;
  get("share").textContent = get("confirmed").checked ? "All of it is used for training." : `${(100 * touched).toFixed(1)} % of it is painted, and used for training.`;
}

// --- mouse, finger, keyboard

const fingers = new Map();
let painting = null, pinch = null;

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) / view.scale + view.left, y: (event.clientY - box.top) / view.scale + view.top };
}

function spread() {
  const [a, b] = [...fingers.values()];
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, far: Math.hypot(a.x - b.x, a.y - b.y) };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!region || event.button > 1) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
  pointer = placeOf(event);
  if (fingers.size === 2) { // two fingers move and zoom; what the first one began to paint is taken back
    if (painting === "paint") step(done, []);
    painting = null;
    pinch = spread();
  } else if (fingers.size === 1) {
    if (tool() === "hand" || event.button === 1) painting = "move";
    else if (tool() === "polygon") {
      if (corners.length > 2 && Math.hypot(pointer.x - corners[0].x, pointer.y - corners[0].y) * view.scale < 12) closePolygon();
      else corners.push(pointer);
    } else {
      painting = "paint";
      stroke(pointer, pointer, false);
    }
  }
  draw();
});

canvas.addEventListener("pointermove", (event) => {
  if (!region) return;
  overThere = event.pointerType === "mouse";
  const before = pointer, finger = fingers.get(event.pointerId);
  if (fingers.size === 2 && finger && pinch) {
    fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    const now = spread();
    view.left -= (now.x - pinch.x) / view.scale;
    view.top -= (now.y - pinch.y) / view.scale;
    if (pinch.far > 0 && now.far > 0) zoom(now.far / pinch.far, now.x, now.y);
    pinch = now;
    return;
  }
  if (painting === "move" && finger) {
    view.left -= (event.offsetX - finger.x) / view.scale;
    view.top -= (event.offsetY - finger.y) / view.scale;
    fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
  }
  pointer = placeOf(event);
  if (painting === "paint" && finger) stroke(before, pointer, true);
  draw();
});

function lift(event) {
  fingers.delete(event.pointerId);
  if (fingers.size < 2) pinch = null;
  if (!fingers.size) painting = null;
  if (region) showShare();
}
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);
canvas.addEventListener("pointerleave", () => { overThere = false; draw(); });
canvas.addEventListener("dblclick", () => { if (corners.length > 2) closePolygon(); });
canvas.addEventListener("wheel", (event) => {
  if (!region) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.offsetX, event.offsetY);
}, { passive: false });
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);

const choose = (name, value) => {
  const input = document.querySelector(`input[name="${name}"][value="${value}"]`);
  if (input) input.checked = true;
  if (name === "tool" && value !== "polygon") corners = [];
  draw();
};

function movePointer(dx, dy) {
  const before = pointer;
  pointer = {
    x: Math.min(region.width - 0.5, Math.max(0.5, pointer.x + dx)), y: Math.min(region.height - 0.5, Math.max(0.5, pointer.y + dy)),
  };
  const x = (pointer.x - view.left) * view.scale, y = (pointer.y - view.top) * view.scale, edge = 20;
  if (x < edge || x > canvas.clientWidth - edge) view.left += pointer.x - before.x;
  if (y < edge || y > canvas.clientHeight - edge) view.top += pointer.y - before.y;
}

const brushSize = (factor) => {
  get("brush").value = Math.max(1, Math.round(Number(get("brush").value) * factor + (factor > 1 ? 1 : 0)));
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=radio]):not([type=checkbox]):not([type=range]), select, textarea");
  if (!region || typing || event.target === overview) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, held = event.ctrlKey || event.metaKey;
  const by = event.shiftKey ? 1 : Math.max(1, Math.round(Number(get("brush").value) / 2));
  const inImage = {
    ArrowLeft: () => movePointer(-by, 0), ArrowRight: () => movePointer(by, 0),
    ArrowUp: () => movePointer(0, -by), ArrowDown: () => movePointer(0, by),
    " ": () => {
      if (tool() === "polygon") corners.push(pointer);
      else if (tool() !== "hand") { stroke(pointer, pointer, false); showShare(); }
    },
    Enter: () => { closePolygon(); showShare(); }, Escape: () => { corners = []; },
  };
  const anywhere = {
    b: () => choose("tool", "brush"), e: () => choose("tool", "eraser"), p: () => choose("tool", "polygon"), h: () => choose("tool", "hand"),
    "[": () => brushSize(0.8), "]": () => brushSize(1.25),
    z: () => { step(done, undone); showShare(); }, y: () => { step(undone, done); showShare(); },
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit, m: () => { shown = !shown; }, s: save,
  };
  for (let number = 1; number <= classes.length; number++) anywhere[number] = () => choose("class", classes[number - 1].number);
  const work = (event.target === canvas && inImage[key]) || anywhere[key];
  if (!work || event.altKey || (held && !"zys".includes(key))) return;
  event.preventDefault();
  work();
  draw();
});

overview.addEventListener("click", (event) => {
  const box = overview.getBoundingClientRect(), scale = slide.width / box.width, now = frame();
  moveFrame((event.clientX - box.left) * scale - now.width / 2, (event.clientY - box.top) * scale - now.height / 2);
});
overview.addEventListener("keydown", (event) => {
  const now = frame(), by = event.shiftKey ? 1 : now.width / 4;
  const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
  if (event.key === "Enter") openRegion(now.left, now.top, now.width, now.height);
  else if (moves[event.key]) moveFrame(now.left + moves[event.key][0], now.top + moves[event.key][1]);
  else return;
  event.preventDefault();
});

// --- buttons

// What is saved: where nobody touched the mask, nobody knows.
const checked = () => (get("confirmed").checked ? region.labels : region.labels.map((value, at) => (region.known[at] ? value : IGNORED)));

let saving = false;
const save = guarded(async () => {
  if (saving || !region) return;
  if (!get("author").value.trim()) {
    get("author").focus();
    throw new Error("An annotation has an author: enter your name, then save.");
  }
  saving = true;
  try {
    say("Saving …");
    const { left, top, width, height, version } = region;
    const body = JSON.stringify({
      slide: slide.slide, left, top, width, height, version, labels: toRuns(checked()),
      author: get("author").value, confirmed: get("confirmed").checked,
    });
    const answer = await ask("save", {}, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const saved = await answer.json();
    region.version = saved.version;
    dirty = false;
    localStorage.setItem("dermatome-author", get("author").value);
    slide.corrections = [...slide.corrections.filter((one) => one.name !== saved.earlier.name), saved.earlier];
    listSaved();
    drawOverview();
    say(`Saved as annotations/${saved.earlier.name}; materialize training_tiles for it.`);
  } finally { saving = false; }
});

get("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(showSlide)(get("slide").value.trim());
});
get("slide").addEventListener("input", listSlides);
get("open").addEventListener("click", () => {
  const now = frame();
  openRegion(now.left, now.top, now.width, now.height);
});
for (const id of ["side", "left", "top"]) get(id).addEventListener("change", () => moveFrame(Number(get("left").value), Number(get("top").value)));
get("undo").addEventListener("click", () => { step(done, undone); showShare(); });
get("redo").addEventListener("click", () => { step(undone, done); showShare(); });
get("closer").addEventListener("click", () => zoom(1.25));
get("farther").addEventListener("click", () => zoom(0.8));
get("fit").addEventListener("click", fit);
get("save").addEventListener("click", save);
get("confirmed").addEventListener("change", () => { dirty = true; showShare(); });
get("download").addEventListener("click", async () => {
  const out = new OffscreenCanvas(region.width, region.height), pixels = new ImageData(region.width, region.height);
  checked().forEach((value, at) => pixels.data.set([value, value, value, 255], 4 * at));
  out.getContext("2d").putImageData(pixels, 0, 0);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await out.convertToBlob({ type: "image/png" }));
  link.download = `${slide.slide}_${region.left}-${region.top}_mask.png`;
  link.click();
  URL.revokeObjectURL(link.href);
});
for (const id of ["brush", "opacity"]) get(id).addEventListener("input", draw);
for (const id of ["tools", "classes"]) get(id).addEventListener("change", () => { if (tool() !== "polygon") corners = []; draw(); });
addEventListener("resize", draw);
addEventListener("beforeunload", (event) => { if (dirty) event.preventDefault(); });

// A link may name the slide and the region.
guarded(async () => {
  get("author").value = localStorage.getItem("dermatome-author") || "";
  const asked = Object.fromEntries(new URLSearchParams(location.search));
  await listSlides();
  if (!asked.slide) return;
  get("slide").value = asked.slide;
  await showSlide(asked.slide);
  if (asked.left === undefined) return;
  get("side").value = asked.side || 512;
  moveFrame(Number(asked.left), Number(asked.top));
  const now = frame();
  await openRegion(now.left, now.top, now.width, now.height);
})();
