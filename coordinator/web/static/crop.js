// Owns the dialog in which a person chooses a part of the query image: by dragging over it, or with four number fields.
// A box is [x0, y0, x1, y1], as shares of the image's width and height.

import { byId } from "./dom.js";

const EDGES = ["x0", "y0", "x1", "y1"];
const WHOLE = [0, 0, 1, 1];
// Smaller ones are slips of the pointer.
const LEAST = 0.01;

let box = WHOLE;
// While the pointer is down: where it started, and the box before.
let from = null;
let before = WHOLE;
let use = () => {};

/** Opens the dialog. start: the box so far, or null; then: called with the chosen box, null for the whole image. */
export function chooseBox(file, start, then) {
  const image = byId("crop-image");
  const url = URL.createObjectURL(file);
  image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
  image.src = url;
  use = then;
  show(start ?? WHOLE);
  byId("crop").showModal();
}

/** The box as text for people, in percent. */
export const boxText = (edges) => {
  const [x0, y0, x1, y1] = edges.map((edge) => Math.round(edge * 100));
  return `from ${x0} to ${x1} % across, from ${y0} to ${y1} % down`;
};

function show(edges) {
  box = edges;
  const { style } = byId("selection");
  const [x0, y0, x1, y1] = edges.map((edge) => edge * 100);
  Object.assign(style, { insetInlineStart: `${x0}%`, insetBlockStart: `${y0}%`, inlineSize: `${x1 - x0}%`, blockSize: `${y1 - y0}%` });
  for (const [place, name] of EDGES.entries()) {
    if (document.activeElement !== byId(name)) byId(name).value = Math.round(edges[place] * 1_000) / 10;
  }
  const isValid = box[0] < box[2] && box[1] < box[3];
  byId("use-part").disabled = !isValid;
  byId("crop-note").textContent = isValid ? `The part reaches ${boxText(box)}.` : "Left must be less than right, and top less than bottom.";
}

/** Where a pointer is on the image. */
function placeOf({ clientX, clientY }) {
  const { left, top, width, height } = byId("crop-image").getBoundingClientRect();
  const share = (value) => Math.min(1, Math.max(0, value));
  return [share((clientX - left) / width), share((clientY - top) / height)];
}

function drag(event) {
  const [x, y] = placeOf(event);
  show([Math.min(from[0], x), Math.min(from[1], y), Math.max(from[0], x), Math.max(from[1], y)]);
}

const stage = byId("stage");
stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  stage.setPointerCapture(event.pointerId);
  from = placeOf(event);
  before = box;
});
stage.addEventListener("pointermove", (event) => from && drag(event));
const release = () => {
  from = null;
  if (box[2] - box[0] < LEAST || box[3] - box[1] < LEAST) show(before);
};
stage.addEventListener("pointerup", release);
stage.addEventListener("pointercancel", release);

for (const [place, name] of EDGES.entries()) {
  byId(name).addEventListener("input", ({ target }) => {
    if (target.value === "" || !target.validity.valid) return;
    show(box.with(place, Number(target.value) / 100));
  });
}

function close(chosen) {
  byId("crop").close();
  use(chosen);
}
byId("use-part").addEventListener("click", () => close(box.join() === WHOLE.join() ? null : box));
byId("use-whole").addEventListener("click", () => close(null));
byId("crop-cancel").addEventListener("click", () => byId("crop").close());
