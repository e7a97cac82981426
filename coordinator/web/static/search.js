// Owns the search page: reads the search from the URL, sends it, and shows the result.

import { ApiError, askForKey, getCollections, hideError, search, showError } from "./api.js";
import { chooseBox } from "./crop.js";
import { byId, element, plural } from "./dom.js";
import { addCondition, filterOf, offerAttributes, readConditions, showConditions } from "./filter.js";
import { readHit, showHits, showSkeleton } from "./grid.js";
import { offerMore } from "./more.js";
import { showQuery } from "./query.js";
import { DEFAULT_K, hashOf, readState } from "./state.js";

const SAMPLES = 12;
const SKELETON_AFTER_MS = 120;

const images = new Map();
let collections = [];
let running = null;

// A state that searches for nothing.
const NOTHING = { key: null, image: null, box: null, like: [], not: [] };

const goTo = (change) => {
  const hash = hashOf({ ...readState(), partial: false, ...change });
  if (hash === location.hash) show();
  else location.hash = hash;
};

async function start() {
  try {
    collections = await getCollections();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (!askForKey(error, start)) showError(error, tryAgain(start));
    return;
  }
  hideError();
  const isEmpty = collections.length === 0;
  byId("empty").hidden = !isEmpty;
  byId("search").hidden = isEmpty;
  byId("results").hidden = true;
  byId("collection").replaceChildren(...collections.map(({ name }) => element("option", {}, name)));
  if (!isEmpty) show();
}

/** Runs and shows the search in the URL. */
function show() {
  if (!collections.length) return;
  const state = readState();
  const known = collections.find(({ name }) => name === state.collection);
  // By default, the largest collection.
  const collection = known ?? collections.reduce((most, one) => (Number(one.rows) > Number(most.rows) ? one : most));
  if (state.collection && !known) {
    showControls({ ...state, collection: collection.name }, collection);
    showError({ code: "NotFound", message: `collection: “${state.collection}” does not exist; choose another.` });
    byId("results").hidden = true;
    return;
  }
  state.collection = collection.name;
  showControls(state, collection);
  run(state, collection);
}

function showControls(state, collection) {
  const hasEncoder = collection.codeSpace.backbone !== "external";
  byId("collection").value = collection.name;
  byId("k").value = state.k;
  byId("max").value = state.max ?? "";
  byId("key").value = state.key ?? "";
  byId("no-encoder").hidden = hasEncoder;
  document.querySelector(".choose").hidden = !hasEncoder;
  showConditions(state);
  showQuery(state, images.get(state.image), goTo);
}

async function run(state, collection) {
  running?.abort();
  offerMore({ cursor: "" });
  const { signal } = (running = new AbortController());
  hideError();
  byId("results").setAttribute("aria-busy", "true");
  const image = images.get(state.image);
  const isSample = !image && state.key === null;
  byId("shuffle").hidden = !isSample;
  const cameFromGrid = byId("grid").contains(document.activeElement);
  const skeletonTimer = setTimeout(() => showBusy(isSample ? SAMPLES : state.k), SKELETON_AFTER_MS);
  try {
    const query = isSample ? sampleQuery(collection) : queryOf(state, image);
    const options = optionsOf(state, isSample);
    const result = await search(collection.name, query, options, signal);
    const grid = showResult(result, state, collection, isSample);
    const cursor = isSample ? "" : result.cursor;
    offerMore({ collection: collection.name, query, options, cursor, signal, grid, shown: result.hits.length });
    if (isSample && state.image) showError(FORGOTTEN);
    // The focused tile was replaced, so move the focus to the new results.
    if (cameFromGrid) byId("heading").focus({ preventScroll: true });
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    byId("results").hidden = true;
    byId("grid").replaceChildren();
    if (!askForKey(error, start)) showError(error, ...actionsFor(error));
  } finally {
    clearTimeout(skeletonTimer);
    if (running.signal === signal) byId("results").removeAttribute("aria-busy");
  }
}

const NO_ENCODER = { code: "InvalidRequest", message: "This collection stores precomputed codes, so it cannot be searched with an image." };

const FORGOTTEN = { code: "Forgotten", message: "Images are kept only until the page is reloaded. Choose the image again." };

function optionsOf(state, isSample) {
  const filter = filterOf(state);
  const options = { k: isSample ? SAMPLES : state.k, includeAttributes: true };
  if (filter) options.filter = filter;
  if (state.max !== null && !isSample) options.maxDistance = state.max;
  if (state.partial) options.allowPartial = true;
  return options;
}

/** What the API is to search for. */
function queryOf({ key, box, like, not }, image) {
  const keys = (given) => given.map((one) => ({ key: one }));
  const examples = like.length || not.length ? { like: keys(like), notLike: keys(not) } : null;
  if (image) return { image, box, examples };
  return examples ? { examples: { ...examples, like: [{ key }, ...examples.like] } } : { key };
}

/** A random code, whose neighbours are a sample of the collection. */
function sampleQuery({ codeSpace }) {
  const code = crypto.getRandomValues(new Uint8Array(codeSpace.bits / 8));
  return { code: btoa(String.fromCharCode(...code)), fingerprint: codeSpace.fingerprint };
}

function showBusy(count) {
  showFacts("Searching …", "");
  byId("results").hidden = false;
  showSkeleton(count);
}

/** Shows a result. Returns how its hits are shown, for those that follow. */
function showResult({ hits, coverage, exact, timings }, state, collection, isSample) {
  const read = hits.map(readHit);
  const isEmpty = hits.length === 0 && !limits(state) && coverage.answered === coverage.partitions && state.key === null;
  const found = hits.length === 1 ? "The nearest" : `The ${hits.length.toLocaleString("en")} nearest`;
  const title = isEmpty ? "This collection is empty" : hits.length === 0 ? emptyText(state) : isSample ? "Or start from one of these" : found;
  const fill = `Load data from a terminal: lookalike ingest SOURCE -c ${collection.name}`;
  showFacts(title, isEmpty ? fill : isSample ? missingText(coverage) : factsOf(coverage, exact, timings));
  if (hits.length < SAMPLES) byId("shuffle").hidden = true;
  byId("facts").classList.toggle("partial", coverage.answered < coverage.partitions);
  offerAttributes(read);
  const linkOf = (hit) => hashOf({ ...state, ...NOTHING, key: hit.key });
  const isScored = state.like.length > 0 || state.not.length > 0;
  const judge = isSample ? null : (hit, field) => goTo({ [field]: [...state[field], hit.key] });
  const grid = { collection: collection.name, bits: collection.codeSpace.bits, linkOf, isRanked: !isSample, isScored, judge };
  showHits(read, grid);
  byId("results").hidden = false;
  return grid;
}

const limits = ({ max, conditions, json }) => max !== null || conditions.length > 0 || Boolean(json);

const emptyText = (state) => (limits(state) ? "No records match these conditions" : state.key === null ? "Nothing found" : "No other records in this collection");

function showFacts(title, facts) {
  byId("heading").textContent = title;
  byId("facts").textContent = facts;
}

function factsOf(coverage, exact, timings) {
  const ms = (value) => (value < 0.1 ? "<0.1 ms" : value < 1_000 ? `${value < 10 ? value.toFixed(1) : Math.round(value)} ms` : `${(value / 1_000).toFixed(1)} s`);
  const rows = Number(coverage.rowsSearched);
  const parts = [`${plural(rows, "record")} compared${exact ? " (exact)" : ""}`];
  parts.push(coverage.answered === coverage.partitions ? `all ${plural(coverage.partitions, "partition")} answered` : missingText(coverage));
  parts.push(`${ms(timings.totalMs)} (encode ${ms(timings.encodeMs)}, search ${ms(timings.searchMs)}, merge ${ms(timings.mergeMs)})`);
  return parts.join(" · ");
}

function missingText({ partitions, answered, missing }) {
  if (answered === partitions) return "";
  const which = missing.map(({ partition }) => partition).join(", ");
  return `⚠ only ${answered} of ${partitions} partitions answered: partition ${which} is missing, so nearer records may exist`;
}

function actionsFor(error) {
  if (/^(image|body): /.test(error.message)) return [action("Choose another image", () => byId("file").click())];
  const isOfPartition = ["PartitionUnavailable", "Recovering", "DeadlineExceeded"].includes(error.code) && !/^the encoder /.test(error.message);
  if (isOfPartition) {
    return [tryAgain(show), action("Search the other partitions", () => goTo({ partial: true }))];
  }
  return error.http === 0 || error.http >= 429 ? [tryAgain(show)] : [];
}

const tryAgain = (again) => action("Try again", again);

function action(words, act) {
  const button = element("button", { type: "button" }, words);
  button.addEventListener("click", act);
  return button;
}

function searchWith(file) {
  if (!file || byId("search").hidden) return;
  if (document.querySelector(".choose").hidden) {
    showError(NO_ENCODER);
    return;
  }
  // Unique, because Back may still lead to an earlier image.
  const name = `${Date.now().toString(36)}-${images.size}`;
  images.set(name, file);
  goTo({ ...NOTHING, image: name });
}

/** Reads the controls; clamps invalid numbers. */
function readControls() {
  const k = Math.round(Number(byId("k").value)) || DEFAULT_K;
  const max = byId("max").value === "" ? null : Math.max(0, Math.round(Number(byId("max").value)));
  return { collection: byId("collection").value, k: Math.min(10_000, Math.max(1, k)), max, ...readConditions() };
}

byId("file").addEventListener("change", ({ target }) => {
  searchWith(target.files[0]);
  target.value = "";
});
byId("collection").addEventListener("change", () => goTo({ ...readControls(), key: null, like: [], not: [] }));
byId("k").addEventListener("change", () => goTo(readControls()));
byId("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value;
  const isOther = key !== (readState().key ?? "");
  goTo({ ...readControls(), ...(isOther && (key ? { ...NOTHING, key } : { key: null, like: [], not: [] })) });
});
byId("part").addEventListener("click", () => {
  const { image, box } = readState();
  chooseBox(images.get(image), box, (chosen) => goTo({ box: chosen }));
});
byId("add").addEventListener("click", addCondition);
byId("shuffle").addEventListener("click", show);
byId("reload").addEventListener("click", start);
byId("grid").addEventListener("click", () => scrollTo({ top: 0 }));

addEventListener("hashchange", show);
// Browsers know no type for some formats that the encoder reads.
const isImage = ({ name, type }) => type.startsWith("image/") || /\.(hei[cf]|hif|avif|jxl)$/i.test(name);
/** The first image among the files; without one, the first file, so that the error names it. */
const imageAmong = (files) => [...files].find(isImage) ?? files[0];

addEventListener("paste", ({ target, clipboardData }) => {
  // Office programs copy text as an image as well.
  const isText = target.matches?.("input, textarea") && clipboardData.types.includes("text/plain");
  if (!isText) searchWith(imageAmong(clipboardData.files));
});

let depth = 0;
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
const highlight = (change) => {
  depth = Math.max(0, depth + change);
  document.body.classList.toggle("dragging", depth > 0);
};
addEventListener("dragenter", (event) => carriesFiles(event) && highlight(1));
addEventListener("dragleave", (event) => carriesFiles(event) && highlight(-1));
addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  highlight(-depth);
  searchWith(imageAmong(event.dataTransfer.files));
});

start();
