// Owns the cluster page: polls the status once a second while the page is visible, and updates what has changed.

import { ApiError, askForKey, getStatus, hideError, showError } from "./api.js";
import { byId, element, plural } from "./dom.js";

const INTERVAL_MS = 1_000;
const SLOTS = 1_024;
const lastValues = new Map();
let timer = null;
let isWaitingForKey = false;
let answeredAt = null;

async function refresh() {
  clearTimeout(timer);
  timer = null;
  if (document.hidden || isWaitingForKey) return;
  try {
    show(await getStatus(AbortSignal.timeout(5 * INTERVAL_MS)));
    answeredAt = Date.now();
    updateIfChanged("error", "", hideError);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    isWaitingForKey = askForKey(error, () => {
      isWaitingForKey = false;
      refresh();
    });
    if (!isWaitingForKey) updateIfChanged("error", error.message, () => showError(error));
    showVerdict(answeredAt === null ? "" : "Showing the last known state.", true);
  }
  showAge();
  timer = setTimeout(refresh, INTERVAL_MS);
}

/** Updates a part of the page only if its value changed, so as not to disturb selections and screen readers. */
function updateIfChanged(name, value, change) {
  const text = JSON.stringify(value);
  if (lastValues.get(name) === text) return;
  lastValues.set(name, text);
  change();
}

function showAge() {
  const age = answeredAt === null ? null : Math.round((Date.now() - answeredAt) / 1_000);
  const text = age === null ? "" : age < 3 ? "Live" : `Updated ${age} s ago`;
  updateIfChanged("age", text, () => (byId("age").textContent = text));
}

function show(status) {
  byId("content").hidden = false;
  updateIfChanged("name", status.cluster, () => (byId("name").textContent = `Cluster ${status.cluster}`));
  const { words, isHealthy } = verdictOf(status);
  showVerdict(words, isHealthy);
  updateIfChanged("figures", figuresOf(status), () => byId("figures").replaceChildren(...figuresOf(status).map(figure)));
  updateIfChanged("rebalance", status.rebalance, () => showRebalance(status.rebalance));
  const partitions = status.partitions.map((one) => ({ ...one, replicas: one.replicas.map(replicaFacts) }));
  updateIfChanged("partitions", partitions, () => byId("partitions").replaceChildren(...partitions.map(partitionCard)));
  updateIfChanged("collections", status.collections, () => byId("collections").replaceChildren(collectionsTable(status.collections)));
  const encoders = [status.encoder, ...status.encoders];
  updateIfChanged("encoder", encoders, () => byId("encoder").replaceChildren(...encoderList(encoders)));
}

function showVerdict(words, isHealthy) {
  updateIfChanged("verdict", words, () => {
    byId("verdict").textContent = words;
    byId("verdict").classList.toggle("bad", !isHealthy);
  });
}

const isServing = ({ state }) => state === "serving";

/** The overall state of the cluster, in words. */
function verdictOf({ partitions, encoder, encoders, rebalance }) {
  const replicas = partitions.flatMap((one) => one.replicas);
  const down = replicas.filter((one) => !isServing(one)).length;
  const lost = partitions.filter((one) => (one.slots || one.target_slots) && !one.replicas.some(isServing)).map((one) => one.partition);
  const problems = [];
  if (lost.length) problems.push(`Some records cannot be searched: partition ${lost.join(", ")} has no serving shard.`);
  else if (rebalance.slots_unserved) problems.push("Some records cannot be searched.");
  if (down) problems.push(`${down} of ${plural(replicas.length, "shard")} ${down === 1 ? "is" : "are"} not serving.`);
  if ([encoder, ...encoders].some(({ state }) => state === "unavailable")) problems.push("An encoder is not responding, so its collections' images cannot be encoded.");
  if (problems.length) return { words: `⚠ ${problems.join(" ")}`, isHealthy: false };
  return { words: replicas.length === 1 ? "✓ The shard is serving." : `✓ All ${replicas.length} shards are serving.`, isHealthy: true };
}

function figuresOf({ partitions, collections, version }) {
  const replicas = partitions.flatMap((one) => one.replicas);
  const rows = collections.reduce((sum, one) => sum + one.rows, 0);
  const memory = replicas.reduce((sum, one) => sum + one.memory_bytes, 0);
  const copies = Math.max(...partitions.map((one) => one.replicas.length), 0);
  return [
    ["Records", rows.toLocaleString("en")],
    ["Collections", String(collections.length)],
    ["Partitions", String(partitions.length)],
    ["Replicas per partition", String(copies)],
    ["Memory for codes", bytes(memory)],
    ["Version", version],
  ];
}

const figure = ([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

function showRebalance({ slots_to_move: left, slots_moving: moving, drained }) {
  byId("rebalance").hidden = left === 0 && drained.length === 0;
  byId("rebalance-bar").value = SLOTS - left;
  const words = left ? [`${plural(left, "slot")} of ${SLOTS.toLocaleString("en")} still to move, ${moving} moving now.`] : ["All slots are in place."];
  if (drained.length) words.push(`Drained for maintenance: partition ${drained.join(", ")}.`);
  byId("rebalance-text").textContent = words.join(" ");
}

const replicaFacts = ({ uptime_seconds, ...rest }) => ({ ...rest, up: duration(uptime_seconds) });

const MARKS = { serving: "●", recovering: "◐", unavailable: "○" };

function partitionCard({ partition, slots, target_slots, removable, replicas }) {
  const rows = Math.max(...replicas.map((one) => one.rows), 0);
  const share = `${plural(slots, "slot")}${slots === target_slots ? "" : `, target ${target_slots.toLocaleString("en")}`}`;
  const title = element("h3", {}, `Partition ${partition}`);
  const known = `${plural(rows, "row")} · ${share}${removable ? " · empty: its shards can be stopped" : ""}`;
  const facts = element("p", { class: "note" }, replicas.some(isServing) ? known : "Rows and slots are unknown until a shard is serving");
  const isUnhealthy = replicas.some((one) => !isServing(one) || one.damaged.length);
  return element("li", { class: isUnhealthy ? "card unhealthy" : "card" }, title, facts, element("ul", {}, ...replicas.map(replicaLine)));
}

function replicaLine({ replica, address, state, reason, rows, memory_bytes, lag_ms, damaged, up }) {
  const mark = element("span", { class: "mark", "aria-hidden": "true" }, MARKS[state] ?? "○");
  const head = element("p", { class: `state ${isServing({ state }) ? "" : "bad"}` }, mark, `Replica ${replica} `, element("strong", {}, state));
  const facts = isServing({ state }) ? [plural(rows, "row"), bytes(memory_bytes), `up ${up}`] : [];
  if (lag_ms) facts.push(`${lag_ms.toLocaleString("en")} ms behind`);
  const lines = [head, element("p", { class: "note" }, [address, ...facts].map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · "))];
  if (reason) lines.push(element("p", { class: "reason" }, reason));
  for (const one of damaged) lines.push(element("p", { class: "reason" }, `Damaged: ${one}`));
  return element("li", {}, ...lines);
}

function collectionsTable(collections) {
  if (!collections.length) return element("p", {}, "No collections yet. Create one: ", element("code", {}, "lookalike ingest FOLDER -c photos"));
  const head = ["Name", "Records", "Bits", "Code space"].map((name) => element("th", { scope: "col" }, name));
  const rows = collections.map(({ name, rows: count, code_space: space }) => {
    const link = element("a", { href: `/#${new URLSearchParams({ c: name })}` }, name);
    const made = space.backbone === "external" ? "precomputed codes" : `${space.backbone}, ${space.hash_method}`;
    const cells = [count.toLocaleString("en"), String(space.bits), made].map((text) => element("td", {}, text));
    return element("tr", {}, element("th", { scope: "row" }, link), ...cells);
  });
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of collections" }, table);
}

function encoderList(encoders) {
  const configured = encoders.filter(({ state }) => state !== "none");
  if (!configured.length) return [element("p", {}, "None: this cluster accepts precomputed codes only.")];
  return configured.flatMap((encoder) => encoderFacts(encoder, configured.length > 1));
}

function encoderFacts({ name, address, state, reason, code_space: space }, isNamed) {
  const isUp = state === "serving";
  const mark = element("span", { class: "mark", "aria-hidden": "true" }, MARKS[state] ?? "○");
  const place = isNamed ? ` ${name} at ${address}` : ` at ${address}`;
  const words = [element("p", { class: isUp ? "state" : "state bad" }, mark, element("strong", {}, state), place)];
  if (reason) words.push(element("p", { class: "reason" }, reason));
  if (space) words.push(element("p", { class: "note" }, `${space.backbone}, ${space.layer}, ${space.hash_method}, ${space.bits} bits`));
  return words;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = count ? Math.min(4, Math.floor(Math.log10(count) / 3)) : 0;
  return `${(count / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

function duration(seconds) {
  const steps = [["d", 86_400], ["h", 3_600], ["min", 60]];
  const [unit, size] = steps.find(([, length]) => seconds >= length) ?? [];
  return unit ? `${Math.floor(seconds / size)} ${unit}` : "<1 min";
}

document.addEventListener("visibilitychange", refresh);
refresh();
