// Owns "Load more": the hits after those that are shown.

import { ApiError, hideError, search, showError } from "./api.js";
import { byId, element, plural } from "./dom.js";
import { addHits, readHit } from "./grid.js";

let next = null;

/** Offers the hits after these, if there are any. page: {collection, query, options, cursor, signal, grid, shown}. */
export function offerMore(page) {
  next = page.cursor ? page : null;
  byId("more").hidden = next === null;
}

async function loadMore() {
  const page = next;
  if (!page || byId("more").hasAttribute("aria-disabled")) return;
  hideError();
  byId("more").setAttribute("aria-disabled", "true");
  try {
    const { hits, cursor } = await search(page.collection, page.query, { ...page.options, after: page.cursor }, page.signal);
    if (next !== page) return;
    const shown = page.shown + hits.length;
    byId("heading").textContent = `The ${shown.toLocaleString("en")} nearest`;
    byId("more-status").textContent = `${plural(hits.length, "more result")} loaded`;
    // The button moves down, or goes away, so move the focus to the new results.
    addHits(hits.map(readHit), page.grid)?.focus({ preventScroll: true });
    offerMore({ ...page, cursor, shown });
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    if (next === page) showError(error, again());
  } finally {
    byId("more").removeAttribute("aria-disabled");
  }
}

function again() {
  const button = element("button", { type: "button" }, "Try again");
  button.addEventListener("click", loadMore);
  return button;
}

byId("more").addEventListener("click", loadMore);
