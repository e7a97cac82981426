// Owns how the page shows what a search is about: the query image or record, the part of the image that is used, and the
// records that hits are to be like or not to be like as well.

import { boxText } from "./crop.js";
import { byId, element } from "./dom.js";
import { lastPart, thumbnailOf } from "./grid.js";

const PREVIEW_PIXELS = 384;

/** Shows the query. file: the query image, if any; change: called with the state to go to. */
export function showQuery({ collection, key, box, like, not }, file, change) {
  const hasQuery = Boolean(file) || key !== null;
  document.body.classList.toggle("has-query", hasQuery);
  byId("choose").textContent = hasQuery ? "Choose another" : "Choose an image";
  byId("query-name").hidden = !hasQuery;
  byId("query-name").textContent = byId("query-name").title = file ? file.name || "Your image" : (key ?? "");
  byId("part").hidden = true;
  byId("part-note").hidden = !(file && box);
  byId("part-note").textContent = box ? `A part of it: ${boxText(box)}` : "";
  const none = () => element("span", { hidden: true });
  const preview = file ? previewOf(file, box) : hasQuery ? thumbnailOf(collection, key, "query") : none();
  document.querySelector("#drop > :first-child").replaceWith(preview);
  const chips = [
    ...like.map((one) => chip(collection, one, "and like", () => change({ like: like.filter((other) => other !== one) }))),
    ...not.map((one) => chip(collection, one, "not like", () => change({ not: not.filter((other) => other !== one) }))),
  ];
  byId("examples").hidden = chips.length === 0;
  byId("examples").replaceChildren(...chips);
}

function chip(collection, key, words, remove) {
  const button = element("button", { type: "button", class: "subtle", "aria-label": `Remove ${key}` }, "×");
  button.addEventListener("click", remove);
  return element("li", { title: key }, thumbnailOf(collection, key, "chip"), element("span", {}, `${words} ${lastPart(key)}`), button);
}

/** The query image, or the part of it that is used. Once it is there, a part can be chosen. */
function previewOf(file, box) {
  const url = URL.createObjectURL(file);
  const image = element("img", { class: "query", alt: "Query image" });
  const canvas = box && element("canvas", { class: "query", role: "img", "aria-label": "Part of the query image" });
  const release = () => URL.revokeObjectURL(url);
  const shown = () => {
    if (box) drawPart(canvas, image, box);
    release();
    byId("part").hidden = false;
  };
  image.addEventListener("load", shown, { once: true });
  image.addEventListener("error", () => (release(), ((canvas ?? image).hidden = true)), { once: true });
  image.src = url;
  return canvas ?? image;
}

function drawPart(canvas, image, [x0, y0, x1, y1]) {
  const width = Math.max(1, (x1 - x0) * image.naturalWidth);
  const height = Math.max(1, (y1 - y0) * image.naturalHeight);
  const scale = Math.min(1, PREVIEW_PIXELS / Math.min(width, height));
  Object.assign(canvas, { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
  const left = x0 * image.naturalWidth;
  const top = y0 * image.naturalHeight;
  canvas.getContext("2d").drawImage(image, left, top, width, height, 0, 0, canvas.width, canvas.height);
}
