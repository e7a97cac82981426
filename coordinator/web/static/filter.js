// Owns the filter: its rows on the page, and their conversion to a filter of the REST API.

import { ApiError, getValues } from "./api.js";
import { byId, element } from "./dom.js";

const invalid = (message) => new ApiError(400, { code: "InvalidRequest", message });

const range = (bound) => (field, text) => {
  const value = scalar(text);
  if (text.trim() === "" || "boolean" in value) throw invalid(`filter: ${field} is compared with “${text}”; use a number, a text or a date, such as 12.5 or 2026-05-01`);
  return { range: { field, [`${bound}Value`]: value } };
};
const equals = (field, text) => ({ equals: { field, value: scalar(text) } });

const COMPARISONS = {
  is: equals,
  "is not": (field, text) => ({ not: equals(field, text) }),
  "is one of": (field, text) => ({ in: { field, values: splitList(text).map((part) => scalar(part.trim())) } }),
  "is at least": range("gte"),
  "is above": range("gt"),
  "is at most": range("lte"),
  "is below": range("lt"),
  "starts with": (field, text) => ({ prefix: { field, text: scalar(text).text ?? text } }),
  exists: (field) => ({ exists: { field } }),
  "does not exist": (field) => ({ not: { exists: { field } } }),
};
const WITHOUT_VALUE = ["exists", "does not exist"];

// The number of condition rows that were made.
let rows = 0;

/** The filter for a state; undefined if there is none. Throws ApiError. */
export function filterOf({ conditions, json }) {
  if (json) {
    try {
      return JSON.parse(json);
    } catch (error) {
      throw invalid(`filter: invalid JSON (${error.message}); correct it or clear the field`);
    }
  }
  const parts = conditions.map(([field, comparison, text]) => {
    if (!(comparison in COMPARISONS)) throw invalid(`filter: unknown comparison “${comparison}”; choose one from the list`);
    return COMPARISONS[comparison](field, text);
  });
  return parts.length > 1 ? { and: { filters: parts } } : parts[0];
}

/** Splits at commas, except within quotes. */
const splitList = (text) => text.match(/\s*"[^"]*"\s*(?=,|$)|[^,]+/g) ?? [""];

/** Parses a value: quoted values are text; integers stay exact. */
function scalar(text) {
  const quoted = /^"(.*)"$/s.exec(text);
  if (quoted) return { text: quoted[1] };
  if (text === "true" || text === "false") return { boolean: text === "true" };
  if (/^-?\d{1,18}$/.test(text)) return { integer: text };
  if (/^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) return { number: Number(text) };
  return { text };
}

/** Shows the conditions, or an empty row if there are none. */
export function showConditions({ conditions, json }) {
  byId("conditions").replaceChildren(...(conditions.length ? conditions : [["", "is", ""]]).map(row));
  byId("json").value = json ?? "";
  const count = json ? 1 : conditions.length;
  byId("filter-count").textContent = count ? ` (${count})` : "";
}

export function addCondition() {
  const added = row(["", "is", ""]);
  byId("conditions").append(added);
  added.querySelector("input").focus();
}

/** Reads the conditions from the rows; skips rows without an attribute. */
export function readConditions() {
  const conditions = [...byId("conditions").children].map((one) =>
    [...one.querySelectorAll("input, select")].map((control) => control.value.trim()),
  );
  return { conditions: conditions.filter(([field]) => field), json: byId("json").value.trim() || null };
}

function row([field, comparison, text]) {
  const attribute = element("input", { "aria-label": "Attribute", placeholder: "attribute", list: "attributes", autocomplete: "off", spellcheck: "false" });
  const compare = element("select", { "aria-label": "Comparison" }, ...Object.keys(COMPARISONS).map((name) => element("option", {}, name)));
  const value = element("input", { "aria-label": "Value", placeholder: "value", autocomplete: "off", spellcheck: "false" });
  const values = element("datalist", { id: `values-${(rows += 1)}` });
  value.setAttribute("list", values.id);
  value.addEventListener("focus", () => offerValues(values, attribute.value.trim()));
  const remove = element("button", { type: "button", class: "subtle", "aria-label": "Remove condition" }, "×");
  attribute.value = field;
  compare.value = comparison in COMPARISONS ? comparison : "is";
  value.value = text;
  const toggle = () => (value.disabled = WITHOUT_VALUE.includes(compare.value));
  compare.addEventListener("change", toggle);
  toggle();
  const line = element("div", { class: "condition" }, attribute, compare, value, values, remove);
  remove.addEventListener("click", () => {
    line.remove();
    if (!byId("conditions").children.length) addCondition();
    byId("apply").focus();
  });
  return line;
}

/** Suggests the values of an attribute. Without an answer there are no suggestions. */
async function offerValues(list, attribute) {
  const collection = byId("collection").value;
  const wanted = `${collection}\n${attribute}`;
  if (!attribute || list.dataset.offered === wanted) return;
  list.dataset.offered = wanted;
  list.replaceChildren();
  let found = [];
  try {
    found = await getValues(collection, attribute);
  } catch (error) {
    if (!(error instanceof ApiError) && error.name !== "TimeoutError") throw error;
  }
  if (list.dataset.offered === wanted) list.replaceChildren(...found.map((one) => element("option", { value: writtenAs(one) })));
}

/** The text that `scalar` parses to this value. */
function writtenAs(value) {
  if (!("text" in value)) return String(Object.values(value)[0]);
  const isPlain = scalar(value.text).text === value.text && !value.text.includes(",") && value.text === value.text.trim();
  return isPlain ? value.text : `"${value.text}"`;
}

/** Suggests the attributes of these hits. */
export function offerAttributes(hits) {
  const names = new Set(hits.flatMap((hit) => Object.keys(hit.attributes)));
  byId("attributes").replaceChildren(...[...names].sort().map((name) => element("option", { value: name })));
}
