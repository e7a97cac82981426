// Owns the grid of hits: one tile per hit, which links to a search for more like it.

import { showThumbnail } from "./api.js";
import { byId, element, plural } from "./dom.js";

const SHOWN_ATTRIBUTES = 2;

/** Shows hits with parsed attributes. linkOf: gives a hit's URL; bits: the code length; isRanked: show distances, or with
 * isScored scores; judge: called with a hit and "like" or "not"; null if hits cannot be judged. */
export function showHits(hits, { collection, bits, linkOf, isRanked, isScored, judge }) {
  const item = (hit) => element("li", {}, tile(hit, { collection, bits, linkOf, isRanked, isScored }), ...(judge ? [judgement(hit, judge)] : []));
  byId("grid").replaceChildren(...hits.map(item));
}

/** Two buttons that add the hit to the search. */
function judgement(hit, judge) {
  const button = (field, sign, words) => {
    const one = element("button", { type: "button", "aria-label": `${words} ${hit.key}`, title: words }, sign);
    one.addEventListener("click", () => judge(hit, field));
    return one;
  };
  return element("span", { class: "judgement" }, button("like", "+", "Also like"), button("not", "−", "Not like"));
}

/** Appends hits to those that are shown. Returns the first new tile; undefined without hits. */
export function addHits(hits, options) {
  const added = hits.map((hit) => element("li", {}, tile(hit, options)));
  byId("grid").append(...added);
  return added[0]?.firstChild;
}

/** Shows empty tiles while a search is running. */
export function showSkeleton(count) {
  const blank = () => element("li", { class: "tile skeleton", "aria-hidden": "true" }, element("span", { class: "image" }), element("span", { class: "caption" }));
  byId("grid").replaceChildren(...Array.from({ length: Math.min(count, 24) }, blank));
}

/** The hit with its attributes parsed to an object. */
export function readHit(hit) {
  let attributes = {};
  try {
    attributes = JSON.parse(hit.attributes || "{}");
  } catch {
    // Only a damaged record has invalid JSON; its thumbnail can still be shown.
  }
  return { ...hit, attributes };
}

function tile(hit, { collection, bits, linkOf, isRanked, isScored }) {
  const more = element("span", { class: "more" }, "More like this");
  const image = element("span", { class: "image" }, thumbnailOf(collection, hit.key), more);
  const caption = element("span", { class: "caption" }, element("span", { class: "name" }, lastPart(hit.key)));
  if (isRanked) caption.append(isScored ? element("span", { class: "distance" }, `score ${hit.score.toFixed(3)}`) : distance(hit, bits));
  const words = attributeText(hit.attributes);
  if (words) caption.append(element("span", { class: "attributes" }, words));
  return element("a", { class: "tile", href: linkOf(hit), title: `${hit.key}\n${allAttributes(hit.attributes)}`.trim() }, image, caption);
}

/** The record's thumbnail, or a placeholder with its key. */
export function thumbnailOf(collection, key, kind = "") {
  const image = element("img", { class: kind, alt: "", loading: "lazy", decoding: "async" });
  const blank = () => element("span", { class: `blank ${kind}`, "aria-hidden": "true" }, lastPart(key));
  showThumbnail(image, collection, key, () => image.replaceWith(blank()));
  return image;
}

function distance({ distance: bitsApart, score }, bits) {
  const bar = element("span", { class: "similarity", "aria-hidden": "true" }, element("span"));
  // Unrelated images share about half of their bits, so the bar starts at half.
  bar.firstChild.style.inlineSize = `${Math.round(Math.max(0, score * 2 - 1) * 100)}%`;
  const words = bitsApart ? `${plural(bitsApart, "bit")} apart` : "identical code";
  return element("span", { class: "distance" }, element("span", { title: `${bitsApart} of ${bits} bits differ` }, words), bar);
}

export const lastPart = (key) => key.replace(/\/+$/, "").split("/").pop() || key;
const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** The first attribute values; objects, such as the image source, are in the tooltip only. */
function attributeText(attributes) {
  const plain = Object.values(attributes).filter((value) => value === null || typeof value !== "object");
  return plain.slice(0, SHOWN_ATTRIBUTES).map(asText).join(" · ").slice(0, 200);
}

function allAttributes(attributes) {
  return Object.entries(attributes).map(([name, value]) => `${name}: ${asText(value)}`).join("\n").slice(0, 1000);
}
