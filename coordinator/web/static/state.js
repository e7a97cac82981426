// Owns the search state in the URL's fragment, which makes searches linkable and Back work. Images stay in the page; the
// URL contains only a name for them.

export const DEFAULT_K = 24;

/** {collection, key, image, k, max, conditions: [[attribute, comparison, value]], json, partial} */
export function readState(hash = location.hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  return {
    collection: given.get("c"),
    key: given.get("key"),
    image: given.get("image"),
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
  if (state.k !== DEFAULT_K) given.set("k", state.k);
  if (state.max !== null) given.set("max", state.max);
  for (const one of state.conditions) given.append("f", JSON.stringify(one));
  if (state.json) given.set("filter", state.json);
  if (state.partial) given.set("partial", "");
  return `#${given}`;
}

const whole = (text) => (text !== null && /^\d{1,6}$/.test(text) ? Number(text) : null);

function condition(text) {
  try {
    const parts = JSON.parse(text);
    return Array.isArray(parts) && parts.length === 3 && parts.every((part) => typeof part === "string") ? parts : null;
  } catch {
    return null;
  }
}
