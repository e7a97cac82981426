// Owns the search state in the URL's fragment, which makes searches linkable and Back work. Images stay in the page; the
// URL contains only a name for them.

export const DEFAULT_K = 24;

/** {collection, key, image, box, like: [key], not: [key], k, max, conditions: [[attribute, comparison, value]], json, partial} */
export function readState(hash = location.hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  return {
    collection: given.get("c"),
    key: given.get("key"),
    image: given.get("image"),
    box: boxOf(given.get("box")),
    like: given.getAll("like"),
    not: given.getAll("not"),
    k: whole(given.get("k")) ?? DEFAULT_K,
    max: whole(given.get("max")),
    conditions: given.getAll("f").map(condition).filter(Boolean),
    json: given.get("filter"),
    partial: given.has("partial"),
  };
}

export function hashOf(state) {
  const given = new URLSearchParams();
  if (state.collection) given.set("c", state.collection);
  if (state.key !== null) given.set("key", state.key);
  if (state.image !== null) given.set("image", state.image);
  if (state.box !== null) given.set("box", state.box.map((edge) => Math.round(edge * 10_000) / 10_000));
  for (const key of state.like) given.append("like", key);
  for (const key of state.not) given.append("not", key);
  if (state.k !== DEFAULT_K) given.set("k", state.k);
  if (state.max !== null) given.set("max", state.max);
  for (const one of state.conditions) given.append("f", JSON.stringify(one));
  if (state.json) given.set("filter", state.json);
  if (state.partial) given.set("partial", "");
  return `#${given}`;
}

const whole = (text) => (text !== null && /^\d{1,6}$/.test(text) ? Number(text) : null);

/** [x0, y0, x1, y1], as shares of the image's width and height; null if the text is no part of an image. */
function boxOf(text) {
  const edges = (text ?? "").split(",").map(Number);
  const isPart = edges.length === 4 && edges.every((edge) => edge >= 0 && edge <= 1) && edges[0] < edges[2] && edges[1] < edges[3];
  return isPart ? edges : null;
}

function condition(text) {
  try {
    const parts = JSON.parse(text);
    return Array.isArray(parts) && parts.length === 3 && parts.every((part) => typeof part === "string") ? parts : null;
  } catch {
    return null;
  }
}
