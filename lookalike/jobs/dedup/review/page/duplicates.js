// Owns the page of duplicates: it shows groups of pictures, lets the user choose which go, and has the server remove
// them or undo that. Strings become text nodes, so keys cannot inject HTML.

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
const PAGE = 30;
const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const plural = (count, one) => `${number(count)} ${count === 1 ? one : `${one}s`}`;
const size = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`);

/** The groups that were loaded, in order. A group's records have `marked` (they go) and `gone` (they went). */
const groups = [];
let total = 0;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== false) node.setAttribute(name, value === true ? "" : value);
  node.append(...children);
  return node;
}

async function call(path, body) {
  const answer = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  const document = await answer.json();
  if (!answer.ok) throw new Error(document.error);
  return document;
}

async function load() {
  const found = await call(`/groups?start=${groups.length}&count=${PAGE}`);
  total = found.total;
  for (const group of found.groups) {
    for (const record of group.records) record.marked = !record.keep && !record.gone;
    groups.push(group);
    byId("groups").append(shown(group));
  }
  byId("more").hidden = groups.length >= total;
  byId("undo").disabled = !found.can_undo;
  summarize();
}

function shown(group) {
  const remove = element("button", { type: "button", class: "remove" });
  remove.addEventListener("click", () => removeFrom([group]));
  group.node = element(
    "li", { class: "group" },
    element("div", { class: "title" }, element("h2", {}, `Group ${number(group.id + 1)}: ${plural(group.records.length, "picture")}`), remove),
    element("ul", { class: "pictures" }, ...group.records.map((record) => element("li", {}, picture(group, record)))),
  );
  group.remove = remove;
  update(group);
  return group.node;
}

function picture(group, record) {
  const image = record.thumbnail ? element("img", { src: record.thumbnail, alt: "", loading: "lazy" }) : element("span", { class: "blank" }, "no preview");
  const facts = [
    record.width && `${number(record.width)} × ${number(record.height)}`,
    record.bytes && size(record.bytes),
    record.format,
    record.exact ? "same bytes" : record.distance ? `${plural(record.distance, "bit")} apart` : "identical code",
  ].filter(Boolean);
  record.state = element("span", { class: "state" });
  record.node = element("button", { type: "button", class: "picture" }, image, record.state, element("span", { class: "name" }, record.key), element("span", { class: "facts" }, facts.join(" · ")));
  record.node.addEventListener("click", () => {
    if (record.gone) return;
    record.marked = !record.marked;
    update(group);
    summarize();
  });
  return record.node;
}

const marked = (group) => group.records.filter((record) => record.marked && !record.gone);

function update(group) {
  const present = group.records.filter((record) => !record.gone);
  for (const record of group.records) {
    record.node.setAttribute("aria-disabled", String(Boolean(record.gone)));
    record.node.setAttribute("aria-pressed", String(Boolean(record.marked || record.gone)));
    record.state.textContent = record.gone ? "Removed" : record.marked ? "Goes" : "Stays";
  }
  const count = marked(group).length;
  group.remove.textContent = count === present.length && count ? "One must stay" : `Remove ${number(count)}`;
  group.remove.disabled = !count || count === present.length;
}

function summarize() {
  const all = groups.flatMap(marked);
  const bytes = all.reduce((sum, record) => sum + (record.bytes ?? 0), 0);
  byId("summary").textContent = `${plural(total, "group")}, ${number(groups.length)} shown; ${plural(all.length, "picture")} marked${bytes ? `, ${size(bytes)}` : ""}`;
  byId("remove-all").disabled = !all.length;
}

async function removeFrom(chosen) {
  const wanted = chosen.filter((group) => marked(group).length && marked(group).length < group.records.filter((record) => !record.gone).length);
  if (!wanted.length) return;
  try {
    const done = await call("/remove", { groups: wanted.map((group) => ({ id: group.id, keys: marked(group).map((record) => record.key) })) });
    apply(done);
  } catch (error) {
    byId("error").textContent = error.message;
  }
}

async function undo() {
  try {
    apply(await call("/undo", {}));
  } catch (error) {
    byId("error").textContent = error.message;
  }
}

/** Takes over what the server did. done: {groups: [{id, gone: [keys]}], error, can_undo}. */
function apply(done) {
  for (const { id, gone } of done.groups) {
    const group = groups[id];
    if (!group) continue;
    for (const record of group.records) record.gone = gone.includes(record.key);
    update(group);
  }
  byId("undo").disabled = !done.can_undo;
  byId("error").textContent = done.error;
  summarize();
}

function removeAll() {
  const all = groups.flatMap(marked);
  byId("question").textContent = `Remove ${plural(all.length, "picture")} from ${plural(groups.filter((group) => marked(group).length).length, "group")}?`;
  byId("confirm").showModal();
}

byId("confirm").addEventListener("close", () => {
  if (byId("confirm").returnValue === "yes") removeFrom(groups);
});
byId("remove-all").addEventListener("click", removeAll);
byId("undo").addEventListener("click", undo);
byId("more").addEventListener("click", load);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("confirm").open) return;
  const group = groups.findIndex(({ node }) => node.contains(document.activeElement));
  if (event.key === "u") {
    undo();
  } else if (event.key === "r" && group >= 0) {
    removeFrom([groups[group]]);
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    focus(group < 0 ? 0 : group + (event.key === "ArrowDown" ? 1 : -1), 0);
    event.preventDefault();
  } else if ((event.key === "ArrowRight" || event.key === "ArrowLeft") && group >= 0) {
    const place = groups[group].records.findIndex(({ node }) => node === document.activeElement);
    focus(group, place + (event.key === "ArrowRight" ? 1 : -1));
    event.preventDefault();
  }
});

function focus(group, place) {
  groups[group]?.records[place]?.node.focus();
}

load().catch((error) => {
  byId("summary").textContent = "";
  byId("error").textContent = error.message;
});
