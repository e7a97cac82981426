// Owns the calls to the coordinator, the API key, and the display of errors.

import { byId, element } from "./dom.js";

const KEY = "lookalike-api-key";
// Suggestions that take longer come too late.
const VALUES_MS = 5_000;

const EDGES = ["x0", "y0", "x1", "y1"];

export class ApiError extends Error {
  constructor(http, { code, message, requestId, retryAfterMs }) {
    super(message);
    Object.assign(this, { http, code, requestId, retryAfterMs });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key === null ? {} : { authorization: `Bearer ${key}` };
}

/** Sends a request and returns the response. body: an object to send as JSON, or a form. Throws ApiError. */
async function request(path, { body, signal } = {}) {
  const isForm = body instanceof FormData;
  const init = { signal, headers: headers(), cache: "no-store" };
  if (body !== undefined) {
    init.method = "POST";
    init.body = isForm ? body : JSON.stringify(body);
    if (!isForm) init.headers["content-type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { code: "Unreachable", message: "The coordinator is not responding. Check that it is running, then try again." });
  }
  if (response.ok) return response;
  const parsed = await response.json().catch(() => ({}));
  throw new ApiError(response.status, parsed.error ?? { code: "Internal", message: `HTTP status ${response.status}` });
}

const collectionPath = (name) => `/v1/collections/${encodeURIComponent(name)}`;

export const getStatus = async (signal) => (await request("/v1/status", { signal })).json();

export const getCollections = async () => (await (await request("/v1/collections")).json()).collections;

/** The most frequent values of an attribute, as scalars of the API: {text}, {number}, {integer} or {boolean}. */
export async function getValues(collection, attribute) {
  const signal = AbortSignal.timeout(VALUES_MS);
  const response = await request(`${collectionPath(collection)}/records/facets`, { body: { attribute, limit: 50 }, signal });
  return (await response.json()).facets.map(({ value }) => value);
}

/** Runs a search. query: {image: File, box: [x0, y0, x1, y1] or null, examples: {like, notLike} or null}, {key}, {examples}
 * or {code, fingerprint}. */
export async function search(collection, query, options, signal) {
  let body;
  if (query.image) {
    await checkReadable(query.image);
    body = new FormData();
    body.append("image", query.image);
    body.append("options", JSON.stringify(options));
    if (query.box) body.append("box", JSON.stringify(Object.fromEntries(EDGES.map((name, place) => [name, query.box[place]]))));
    if (query.examples) body.append("examples", JSON.stringify(query.examples));
  } else {
    const { fingerprint, ...kind } = query;
    body = { query: kind, options, fingerprint };
  }
  return (await request(`${collectionPath(collection)}/search`, { body, signal })).json();
}

/** Throws for a dropped folder or a deleted file, which fetch would report as a lost connection. */
async function checkReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new ApiError(400, { code: "InvalidRequest", message: `image: “${file.name}” cannot be read; if it is a folder, choose an image in it` });
  }
}

/** Shows a record's thumbnail in an image element; calls `missing` if there is none. An image element cannot send an
 * API key, so with a key the thumbnail is fetched by script, once it is close to the viewport. */
export function showThumbnail(image, collection, key, missing) {
  const path = `${collectionPath(collection)}/thumbnail?key=${encodeURIComponent(key)}`;
  image.addEventListener("error", missing, { once: true });
  if (!hasKey()) {
    image.src = path;
    return;
  }
  const near = new IntersectionObserver(
    ([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      near.disconnect();
      fetchThumbnail(image, path, missing);
    },
    { rootMargin: "50%" },
  );
  near.observe(image);
}

/** Fetches a thumbnail. Retries later if the API key's rate limit is exceeded. */
async function fetchThumbnail(image, path, missing) {
  try {
    const url = URL.createObjectURL(await (await request(path)).blob());
    const release = () => URL.revokeObjectURL(url);
    image.addEventListener("load", release, { once: true });
    image.addEventListener("error", release, { once: true });
    image.src = url;
  } catch (error) {
    if (error.http !== 429 || !error.retryAfterMs) missing();
    else if (image.isConnected) setTimeout(fetchThumbnail, error.retryAfterMs, image, path, missing);
  }
}

const TITLES = {
  InvalidRequest: "Invalid search",
  NotFound: "Not found",
  Forgotten: "Image no longer available",
  CodeSpaceMismatch: "Codes are not comparable",
  PermissionDenied: "Your API key does not allow this",
  Overloaded: "Cluster overloaded",
  PartitionUnavailable: "Part of the cluster is not responding",
  Recovering: "Part of the cluster is still loading",
  DeadlineExceeded: "Request timed out",
  Unreachable: "No connection",
};

/** Shows an error with its remedy. actions: buttons. */
export function showError(error, ...actions) {
  const content = [
    element("h2", {}, TITLES[error.code] ?? "Something went wrong"),
    element("p", {}, sentence(error.message)),
  ];
  if (actions.length) content.push(element("p", { class: "row" }, ...actions));
  if (error.requestId) content.push(element("p", { class: "note" }, "Request id ", element("code", {}, error.requestId)));
  byId("error").replaceChildren(...content);
}

export const hideError = () => byId("error").replaceChildren();

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

/** If the error is a missing or invalid API key, asks for one, calls `then` afterwards, and returns true. */
export function askForKey(error, then) {
  if (error.http !== 401) return false;
  const hadKey = hasKey();
  sessionStorage.removeItem(KEY);
  hideError();
  if (hadKey) showError(error);
  const label = element("label", { class: "visually-hidden", for: "api-key" }, "API key");
  const input = element("input", { id: "api-key", type: "password", autocomplete: "off", placeholder: "API key" });
  const form = element("form", { class: "joined" }, label, input, element("button", { class: "button" }, "Use key"));
  const panel = byId("key-panel");
  panel.replaceChildren(
    element("h2", { id: "key-title" }, "This cluster requires an API key"),
    form,
    element("p", { class: "note" }, "The key is stored in this tab until you close it."),
  );
  panel.hidden = false;
  input.focus();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = input.value.trim();
    if (!key) return;
    sessionStorage.setItem(KEY, key);
    panel.hidden = true;
    panel.replaceChildren();
    hideError();
    then();
  });
  return true;
}
