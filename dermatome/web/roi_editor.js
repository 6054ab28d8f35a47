// The square on the ROI page. Gradio runs this once with `element`, `watch`; what is inside `element` is replaced when
// another slide is opened, so everything is found again and events are taken at `element`.
const root = () => element.querySelector(".dm-roi");
const field = (name) => root().querySelector(`[name="${name}"]`);
const slide = () => ({ width: +root().dataset.width, height: +root().dataset.height });
const saved = () => JSON.parse(root().dataset.rois);
const whole = (value, low, high) => Math.min(high, Math.max(low, Math.round(Number(value)) || low));

function square() {
  const { width, height } = slide();
  const divide = whole(field("divide").value, 1, 32);
  const side = whole(field("side").value, Math.min(divide > 1 ? 16 * divide : 1, width, height), Math.min(width, height));
  return {
    divide, side,
    left: whole(field("left").value, 0, width - side),
    top: whole(field("top").value, 0, height - side),
  };
}

function put(change) {
  for (const [name, value] of Object.entries(change)) field(name).value = Math.round(value);
  draw();
}

function percent(node, box) {
  const { width, height } = slide();
  node.style.left = `${100 * box.left / width}%`;
  node.style.top = `${100 * box.top / height}%`;
  node.style.width = `${100 * box.width / width}%`;
  node.style.height = `${100 * box.height / height}%`;
}

function draw() {
  const now = square();
  for (const name of ["left", "top", "side", "divide"]) {
    // What is being typed is left alone until it is finished.
    if (document.activeElement !== field(name)) field(name).value = now[name];
  }
  const box = root().querySelector(".dm-box");
  percent(box, { left: now.left, top: now.top, width: now.side, height: now.side });
  const text = `Square of ${now.side} px at ${now.left}, ${now.top}, divided ${now.divide} by ${now.divide}`;
  box.setAttribute("aria-label", `${text}. Arrow keys move it, plus and minus resize it.`);
  let lines = "";
  for (let n = 1; n < now.divide; n++) {
    const at = 100 * n / now.divide;
    lines += `<line x1="${at}" y1="0" x2="${at}" y2="100"/><line x1="0" y1="${at}" x2="100" y2="${at}"/>`;
  }
  box.querySelector(".dm-grid").innerHTML = lines;
}

function drawSaved() {
  const stack = root().querySelector(".dm-stack"), list = root().querySelector(".dm-list");
  stack.querySelectorAll(".dm-saved").forEach((node) => node.remove());
  list.replaceChildren();
  saved().forEach((roi, index) => {
    const frame = document.createElement("div"), label = document.createElement("span");
    frame.className = "dm-saved";
    label.textContent = roi.name;
    frame.append(label);
    percent(frame, roi);
    stack.insertBefore(frame, stack.querySelector(".dm-box"));
    const item = document.createElement("li"), text = document.createElement("span");
    text.textContent = `${roi.name}: ${roi.width} × ${roi.height} px at ${roi.left}, ${roi.top}, ` +
      `divided ${roi.divide} × ${roi.divide}`;
    item.append(text);
    for (const [what, title] of [["edit", "Edit"], ["remove", "Remove"]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "dm-button";
      button.dataset.what = what;
      button.dataset.index = index;
      button.textContent = title;
      button.setAttribute("aria-label", `${title} ${roi.name}`);
      item.append(button);
    }
    list.append(item);
  });
}

function keep(rois) {
  root().dataset.rois = JSON.stringify(rois);
  drawSaved();
}

function add() {
  const now = square(), rois = saved();
  let number = rois.length + 1;
  while (rois.some((roi) => roi.name === `r${number}`)) number++;
  const name = field("name").value.trim() || `r${number}`;
  const roi = { name, top: now.top, left: now.left, height: now.side, width: now.side, divide: now.divide };
  keep([...rois.filter((other) => other.name !== name), roi]);
  field("name").value = "";
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-what]");
  if (!button || !root()) return;
  if (button.dataset.what === "add") return add();
  const rois = saved(), roi = rois[+button.dataset.index];
  if (button.dataset.what === "edit") {
    field("name").value = roi.name;
    put({ divide: roi.divide, side: Math.min(roi.width, roi.height), left: roi.left, top: roi.top });
    root().querySelector(".dm-box").focus();
  } else keep(rois.filter((other) => other !== roi));
});

element.addEventListener("input", (event) => {
  if (root() && event.target.matches(".dm-fields input[type=number]")) draw();
});
element.addEventListener("focusout", () => root() && requestAnimationFrame(() => root() && draw()));

element.addEventListener("keydown", (event) => {
  if (!event.target.classList.contains("dm-box")) return;
  const now = square(), step = event.shiftKey ? 1 : Math.max(1, Math.round(now.side / 10));
  const changes = {
    ArrowLeft: { left: now.left - step }, ArrowRight: { left: now.left + step },
    ArrowUp: { top: now.top - step }, ArrowDown: { top: now.top + step },
    "+": { side: now.side + step }, "=": { side: now.side + step }, "-": { side: now.side - step },
    Enter: {},
  };
  if (!(event.key in changes)) return;
  event.preventDefault();
  if (event.key === "Enter") add();
  else put(changes[event.key]);
});

element.addEventListener("pointerdown", (event) => {
  const box = event.target.closest(".dm-box");
  if (!box) return;
  event.preventDefault();
  box.focus();
  const start = square(), resizing = event.target.classList.contains("dm-handle");
  const perPx = slide().width / root().querySelector(".dm-stack").getBoundingClientRect().width;
  const move = (now) => {
    const right = (now.clientX - event.clientX) * perPx, down = (now.clientY - event.clientY) * perPx;
    if (!resizing) return put({ left: Math.max(0, start.left + right), top: Math.max(0, start.top + down) });
    const room = Math.min(slide().width - start.left, slide().height - start.top);
    put({ side: Math.min(room, Math.max(start.divide, start.side + Math.max(right, down))) });
  };
  const end = () => {
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", end);
    window.removeEventListener("pointercancel", end);
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", end);
  window.addEventListener("pointercancel", end);
});

function begin() {
  if (!root()) return;
  drawSaved();
  draw();
}
watch("value", begin);
begin();

// Read by the button Save.
window.dermatomeRois = () => {
  if (!root()) return "";
  const { name, annotated } = root().dataset;
  return JSON.stringify({ name, annotated: annotated === "yes", ...slide(), rois: saved() });
};
