"use strict";
const slide = JSON.parse(document.getElementById("slide").textContent);
const found = document.getElementById("found");
const form = document.getElementById("controls");

const source = (view) => ({
  width: slide.width,
  height: slide.height,
  tileSize: slide.tileSize,
  minLevel: 0,
  maxLevel: slide.maxLevel,
  getTileUrl: (level, column, row) => `${slide.tiles}/${view}/${level}/${column}/${row}`,
});

const viewer = OpenSeadragon({
  element: document.getElementById("viewer"),
  tileSources: source("image"),
  drawer: "canvas",
  showNavigationControl: false,
  showNavigator: true,
  navigatorAutoFade: false,
  gestureSettingsMouse: { clickToZoom: false },
  gestureSettingsTouch: { clickToZoom: false },
  maxZoomPixelRatio: 8,
  animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.6,
});
viewer.addHandler("open", () => {
  const image = viewer.world.getItemAt(0);
  image.addHandler("fully-loaded-change", (event) => {
    if (event.fullyLoaded) viewer.element.dataset.shown = "image";
  });
});

let over = null;
function show() {
  const view = form.elements.view.value;
  const opacity = form.elements.opacity.value / 100;
  document.querySelectorAll(".legend").forEach((legend) => legend.classList.toggle("on", legend.dataset.view === view));
  if (over && over.view !== view) {
    viewer.world.removeItem(over.item);
    over = null;
  }
  if (over) over.item.setOpacity(opacity);
  else if (view)
    viewer.addTiledImage({
      tileSource: source(view),
      opacity,
      success: ({ item }) => {
        if (form.elements.view.value !== view) return viewer.world.removeItem(item);
        over = { view, item };
        item.setOpacity(form.elements.opacity.value / 100);
        item.addHandler("fully-loaded-change", (event) => {
          if (event.fullyLoaded) viewer.element.dataset.shown = view;
        });
      },
    });
}
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());

const marker = document.createElement("div");
marker.className = "marker";

function make(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

const shown = (value) => (typeof value !== "number" || Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4))));

let asked = 0;
async function ask(point) {
  const at = viewer.world.getItemAt(0).viewportToImageCoordinates(point);
  const x = Math.floor(at.x);
  const y = Math.floor(at.y);
  if (x < 0 || y < 0 || x >= slide.width || y >= slide.height) return;
  viewer.removeOverlay(marker);
  viewer.addOverlay({ element: marker, location: point });
  const mine = ++asked;
  const answer = await fetch(`${slide.at}?x=${x}&y=${y}`).then((response) => response.json()).catch((error) => ({ detail: String(error) }));
  if (mine !== asked) return;
  found.replaceChildren();
  make("p", answer.detail || `At x = ${x}, y = ${y} px: ${answer.tissue || "no mask yet"}${answer.parts.length ? "" : "; no cell and no layer"}.`, found);
  for (const part of answer.parts || []) {
    make("h3", part.title, found);
    const table = make("table", "", found);
    for (const one of part.values) {
      const row = make("tr", "", table);
      const name = make("th", one.name, row);
      name.scope = "row";
      const cell = make("td", "", row);
      if (one.value === null) cell.textContent = "–";
      else {
        const link = make("a", shown(one.value), cell);
        link.href = one.explain;
        link.title = `Explain ${one.name}`;
      }
      make("small", one.meaning, cell);
    }
  }
}

viewer.addHandler("canvas-click", (event) => {
  if (event.quick) ask(viewer.viewport.pointFromPixel(event.position));
});
const centre = () => ask(viewer.viewport.getCenter());
viewer.addHandler("canvas-key", (event) => {
  if (event.originalEvent.key === "Enter") centre();
});
const zoom = (by) => {
  viewer.viewport.zoomBy(by);
  viewer.viewport.applyConstraints();
};
form.elements.in.addEventListener("click", () => zoom(1.6));
form.elements.out.addEventListener("click", () => zoom(1 / 1.6));
form.elements.home.addEventListener("click", () => viewer.viewport.goHome());
form.elements.centre.addEventListener("click", centre);
show();
