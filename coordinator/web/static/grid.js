// Owns the grid of hits: a tile each, that leads to more like it.

import { showThumbnail } from "./api.js";
import { byId, element, plural } from "./dom.js";

const SHOWN_ATTRIBUTES = 2;

/** Show hits, each with its attributes read. linkOf: a hit's address; bits: of a code; isRanked: distances count. */
export function showHits(hits, { collection, bits, linkOf, isRanked }) {
  byId("grid").replaceChildren(...hits.map((hit) => element("li", {}, tile(hit, { collection, bits, linkOf, isRanked }))));
}

/** Empty tiles while an answer is on its way. */
export function showSkeleton(count) {
  const blank = () => element("li", { class: "tile skeleton", "aria-hidden": "true" }, element("span", { class: "picture" }), element("span", { class: "caption" }));
  byId("grid").replaceChildren(...Array.from({ length: Math.min(count, 24) }, blank));
}

/** The hit with its attributes as an object. */
export function readHit(hit) {
  let attributes = {};
  try {
    attributes = JSON.parse(hit.attributes || "{}");
  } catch {
    // Only a damaged record has such text; its picture can still be shown.
  }
  return { ...hit, attributes };
}

function tile(hit, { collection, bits, linkOf, isRanked }) {
  const more = element("span", { class: "more" }, "More like this");
  const picture = element("span", { class: "picture" }, pictureOf(collection, hit.key), more);
  const caption = element("span", { class: "caption" }, element("span", { class: "name" }, lastPart(hit.key)));
  if (isRanked) caption.append(distance(hit, bits));
  const words = attributeWords(hit.attributes);
  if (words) caption.append(element("span", { class: "attributes" }, words));
  return element("a", { class: "tile", href: linkOf(hit), title: `${hit.key}\n${allAttributes(hit.attributes)}`.trim() }, picture, caption);
}

/** The record's thumbnail, or a calm tile with its key if it has none. */
export function pictureOf(collection, key, kind = "") {
  const image = element("img", { class: kind, alt: "", loading: "lazy", decoding: "async" });
  const blank = () => element("span", { class: `blank ${kind}`, "aria-hidden": "true" }, lastPart(key));
  showThumbnail(image, collection, key, () => image.replaceWith(blank()));
  return image;
}

function distance({ distance: bitsApart, score }, bits) {
  const bar = element("span", { class: "likeness", "aria-hidden": "true" }, element("span"));
  // Unrelated pictures share about half of their bits, so half is where the bar begins.
  bar.firstChild.style.inlineSize = `${Math.round(Math.max(0, score * 2 - 1) * 100)}%`;
  const words = bitsApart ? `${plural(bitsApart, "bit")} apart` : "same code";
  return element("span", { class: "distance" }, element("span", { title: `${bitsApart} of ${bits} bits differ` }, words), bar);
}

const lastPart = (key) => key.replace(/\/+$/, "").split("/").pop() || key;
const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** Values to read at a glance; objects, such as where a picture came from, are in the title only. */
function attributeWords(attributes) {
  const plain = Object.values(attributes).filter((value) => value === null || typeof value !== "object");
  return plain.slice(0, SHOWN_ATTRIBUTES).map(asText).join(" · ").slice(0, 200);
}

function allAttributes(attributes) {
  return Object.entries(attributes).map(([name, value]) => `${name}: ${asText(value)}`).join("\n").slice(0, 1000);
}
