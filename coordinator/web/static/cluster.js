// Owns the cluster page: asks for the status once a second while it is seen, and shows what has changed.

import { ApiError, askForKey, getStatus, hideTrouble, showTrouble } from "./api.js";
import { byId, element, plural } from "./dom.js";

const EVERY_MS = 1_000;
const SLOTS = 1_024;
const shown = new Map();
let timer = null;
let isWaitingForKey = false;
let answeredAt = null;

async function refresh() {
  clearTimeout(timer);
  timer = null;
  if (document.hidden || isWaitingForKey) return;
  try {
    show(await getStatus(AbortSignal.timeout(5 * EVERY_MS)));
    answeredAt = Date.now();
    once("trouble", "", hideTrouble);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    isWaitingForKey = askForKey(error, () => {
      isWaitingForKey = false;
      refresh();
    });
    if (!isWaitingForKey) once("trouble", error.message, () => showTrouble(error));
    showVerdict(answeredAt === null ? "" : "What follows is what was known last.", true);
  }
  showAge();
  timer = setTimeout(refresh, EVERY_MS);
}

/** Change the page only where it says something else, so that reading and selecting are not disturbed. */
function once(name, value, change) {
  const text = JSON.stringify(value);
  if (shown.get(name) === text) return;
  shown.set(name, text);
  change();
}

function showAge() {
  const age = answeredAt === null ? null : Math.round((Date.now() - answeredAt) / 1_000);
  const text = age === null ? "" : age < 3 ? "Live" : `As it was ${age} s ago`;
  once("age", text, () => (byId("age").textContent = text));
}

function show(status) {
  byId("all").hidden = false;
  once("name", status.cluster, () => (byId("name").textContent = `Cluster ${status.cluster}`));
  const { words, isWhole } = verdictOf(status);
  showVerdict(words, isWhole);
  once("figures", figuresOf(status), () => byId("figures").replaceChildren(...figuresOf(status).map(figure)));
  once("rebalance", status.rebalance, () => showRebalance(status.rebalance));
  const partitions = status.partitions.map((one) => ({ ...one, replicas: one.replicas.map(replicaFacts) }));
  once("partitions", partitions, () => byId("partitions").replaceChildren(...partitions.map(partitionCard)));
  once("collections", status.collections, () => byId("collections").replaceChildren(collectionsTable(status.collections)));
  once("encoder", status.encoder, () => byId("encoder").replaceChildren(...encoderWords(status.encoder)));
}

function showVerdict(words, isWhole) {
  once("verdict", words, () => {
    byId("verdict").textContent = words;
    byId("verdict").classList.toggle("bad", !isWhole);
  });
}

const isServing = ({ state }) => state === "serving";

/** The sentences that say how it is. */
function verdictOf({ partitions, encoder, rebalance }) {
  const replicas = partitions.flatMap((one) => one.replicas);
  const down = replicas.filter((one) => !isServing(one)).length;
  const lost = partitions.filter((one) => (one.slots || one.target_slots) && !one.replicas.some(isServing)).map((one) => one.partition);
  const wrong = [];
  if (lost.length) wrong.push(`Part of the records cannot be searched: partition ${lost.join(", ")} has no shard that serves.`);
  else if (rebalance.slots_unserved) wrong.push("Part of the records cannot be searched.");
  if (down) wrong.push(`${down} of ${plural(replicas.length, "shard")} ${down === 1 ? "does" : "do"} not serve.`);
  if (encoder.state === "unavailable") wrong.push("The encoder does not answer, so pictures cannot be turned into codes.");
  if (wrong.length) return { words: `⚠ ${wrong.join(" ")}`, isWhole: false };
  return { words: replicas.length === 1 ? "✓ The shard serves." : `✓ All ${replicas.length} shards serve.`, isWhole: true };
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
    ["Replicas of each", String(copies)],
    ["Memory for codes", bytes(memory)],
    ["Version", version],
  ];
}

const figure = ([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

function showRebalance({ slots_to_move: left, slots_moving: moving, drained }) {
  byId("rebalance").hidden = left === 0 && drained.length === 0;
  byId("rebalance-bar").value = SLOTS - left;
  const words = left ? [`${plural(left, "slot")} of ${SLOTS.toLocaleString("en")} still to move, ${moving} on their way.`] : ["Every slot is where it shall be."];
  if (drained.length) words.push(`Drained for maintenance: partition ${drained.join(", ")}.`);
  byId("rebalance-words").textContent = words.join(" ");
}

const replicaFacts = ({ uptime_seconds, ...rest }) => ({ ...rest, up: span(uptime_seconds) });

const MARKS = { serving: "●", recovering: "◐", unavailable: "○" };

function partitionCard({ partition, slots, target_slots, removable, replicas }) {
  const rows = Math.max(...replicas.map((one) => one.rows), 0);
  const share = `${plural(slots, "slot")}${slots === target_slots ? "" : `, shall have ${target_slots.toLocaleString("en")}`}`;
  const title = element("h3", {}, `Partition ${partition}`);
  const known = `${plural(rows, "row")} · ${share}${removable ? " · empty: its shards may be stopped" : ""}`;
  const facts = element("p", { class: "note" }, replicas.some(isServing) ? known : "Rows and slots are known when a shard serves");
  const isHurt = replicas.some((one) => !isServing(one) || one.damaged.length);
  return element("li", { class: isHurt ? "card hurt" : "card" }, title, facts, element("ul", {}, ...replicas.map(replicaLine)));
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
  if (!collections.length) return element("p", {}, "None yet. Make one: ", element("code", {}, "lookalike ingest FOLDER -c photos"));
  const head = ["Name", "Records", "Bits", "Made by"].map((name) => element("th", { scope: "col" }, name));
  const rows = collections.map(({ name, rows: count, code_space: space }) => {
    const link = element("a", { href: `/#${new URLSearchParams({ c: name })}` }, name);
    const made = space.backbone === "external" ? "ready codes" : `${space.backbone}, ${space.hash_method}`;
    const cells = [count.toLocaleString("en"), String(space.bits), made].map((text) => element("td", {}, text));
    return element("tr", {}, element("th", { scope: "row" }, link), ...cells);
  });
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of collections" }, table);
}

function encoderWords({ address, state, reason, code_space: space }) {
  if (state === "none") return [element("p", {}, "None: this cluster takes ready codes only.")];
  const isUp = state === "serving";
  const mark = element("span", { class: "mark", "aria-hidden": "true" }, MARKS[state] ?? "○");
  const words = [element("p", { class: isUp ? "state" : "state bad" }, mark, element("strong", {}, state), ` at ${address}`)];
  if (reason) words.push(element("p", { class: "reason" }, reason));
  if (space) words.push(element("p", { class: "note" }, `${space.backbone}, ${space.layer}, ${space.hash_method}, ${space.bits} bits`));
  return words;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = count ? Math.min(4, Math.floor(Math.log10(count) / 3)) : 0;
  return `${(count / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

function span(seconds) {
  const steps = [["d", 86_400], ["h", 3_600], ["min", 60]];
  const [unit, size] = steps.find(([, length]) => seconds >= length) ?? [];
  return unit ? `${Math.floor(seconds / size)} ${unit}` : "<1 min";
}

document.addEventListener("visibilitychange", refresh);
refresh();
