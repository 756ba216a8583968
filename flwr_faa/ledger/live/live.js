"use strict";
// Everything shown here came through clients that nobody controls: text is set as text, never as HTML.
const SECONDS = 2;
const ROUNDS = 40;
// A state is told by a symbol and a word; its colour only repeats it.
const OUTCOMES = {
  trusted: "\u2022", cleared: "\u2713", convicted: "\u2717", missing: "?", exhausted: "\u2205", removed: "\u2212",
  dropped: "\u2193", "left-out": "\u25e6", rejected: "!",
};
const STATES = { good: "\u2713", watched: "!", banned: "\u2717" };
const byId = (id) => document.getElementById(id);
const seen = { rounds: [], cells: new Map(), tag: "" };

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const known = (outcome) => (Object.hasOwn(OUTCOMES, outcome) ? outcome : "unknown");
const symbol = (outcome) => (known(outcome) === "unknown" ? "#" : OUTCOMES[outcome]);
const marked = (state) => `${STATES[state] || ""} ${state}`;
const number = (value) => (value === null || value === undefined ? "-" : Number(value).toPrecision(4));
const cut = (text) => (text.length > 14 ? `${text.slice(0, 13)}\u2026` : text);
const short = (node) => (node.length > 8 ? `\u2026${node.slice(-6)}` : node);
const named = (node) => (node.name ? `${node.name} (${node.node})` : node.node);

function figures(state) {
  const last = state.rounds.at(-1);
  const open = state.nodes.filter((n) => n.disclosure);
  const worst = Math.max(0, ...open.map((n) => n.disclosure.max_rank / n.disclosure.budget));
  const told = {
    "last round": last ? last.round : "-",
    accepted: last ? `${last.accepted} of ${last.nodes}` : "-",
    verifier: last && last.verifier ? last.verifier : "none",
    nodes: state.nodes.length,
    watched: state.nodes.filter((n) => n.state === "watched").length,
    banned: state.nodes.filter((n) => n.state === "banned").length,
    "budget used, at most": open.length ? `${Math.round(100 * worst)}%` : "-",
  };
  byId("figures").replaceChildren(
    ...Object.entries(told).map(([name, value]) => {
      const one = element("div");
      one.append(element("dt", name), element("dd", String(value)));
      return one;
    }),
  );
  return last;
}

function grid(state) {
  const rounds = state.rounds.map((r) => r.id);
  const cells = seen.cells;
  const table = element("table");
  const head = table.createTHead().insertRow();
  head.append(element("th", "node"));
  for (const r of state.rounds) {
    const th = element("th", `${r.round}${r.failed_closed ? "!" : ""}`, r.failed_closed ? "closed" : "");
    th.title = `round ${r.round}, ${r.at} UTC${r.failed_closed ? ", failed closed" : ""}`;
    head.append(th);
  }
  const body = table.createTBody();
  for (const node of state.nodes) {
    const row = body.insertRow();
    const name = element("th", `${STATES[node.state]} ${node.name ? cut(node.name) : short(node.node)}`, node.state);
    name.title = `${named(node)}, ${node.state}`;
    row.append(name);
    for (const id of rounds) {
      const cell = cells.get(`${node.node}/${id}`);
      const square = element("button", cell ? symbol(cell.verdict) : "", cell ? known(cell.verdict) : "absent");
      square.disabled = !cell;
      if (cell) {
        const what = `${cell.verdict}${cell.withheld ? ` (observed, would have been ${cell.withheld})` : ""}`;
        const label = `node ${named(node)}: ${what}. ${cell.reason}`;
        square.setAttribute("aria-label", label);
        square.title = what;
        square.classList.toggle("observed", Boolean(cell.withheld));
        square.addEventListener("click", () => { byId("detail").textContent = label; });
      }
      row.insertCell().append(square);
    }
  }
  const box = byId("grid");
  const atEnd = !box.firstChild || box.scrollLeft + box.clientWidth >= box.scrollWidth - 4;
  box.replaceChildren(table);
  if (atEnd) box.scrollLeft = box.scrollWidth;
  const found = new Set([...cells.values()].map((c) => c.verdict));
  const key = Object.keys(OUTCOMES).filter((o) => found.has(o)).map((o) => {
    const one = element("span");
    one.append(element("b", OUTCOMES[o], o), o);
    return one;
  });
  if (state.rounds.some((r) => r.failed_closed)) key.push(element("span", "! failed closed: nothing was averaged"));
  byId("key").replaceChildren(...key);
}

function card(node) {
  const box = element("article", undefined, node.state);
  const head = element("h3");
  head.append(element("span", marked(node.state), "badge"));
  if (node.name) head.append(element("span", node.name));
  head.append(element("code", node.node));
  const counts = `${node.rounds} ${node.rounds === 1 ? "round" : "rounds"}, suspected ${node.suspected}, convicted ${node.convicted}, `
    + `no answer ${node.missing}, strikes ${node.strikes}`;
  const last = node.last;
  box.append(head, element("p", counts));
  if (node.ban) box.append(element("p", `banned ${node.banned_at} UTC: ${node.ban}`, "why"));
  else {
    const withheld = last.withheld ? `; observed, would have been ${last.withheld}` : "";
    const numbers = `score ${number(last.score)}, error ${number(last.error)}`;
    box.append(element("p", `round ${last.round}: ${last.verdict}${withheld}; ${numbers}`));
    if (last.reason) box.append(element("p", last.reason, "why"));
  }
  if (node.disclosure) {
    const d = node.disclosure;
    const meter = element("meter");
    Object.assign(meter, { min: 0, max: d.budget, high: 0.8 * d.budget, value: d.max_rank });
    const label = element("label", `known of a sample: ${d.max_rank} of ${d.dimension} dimensions, budget ${d.budget}; `
      + `${d.samples_opened} of ${d.samples} samples opened`);
    label.append(meter);
    box.append(label);
  }
  return box;
}

function told(running, last) {
  const when = last ? `last report ${last.at} UTC` : "no round yet";
  if (running === false) return `The run has ended: no server has this ledger open; ${when}`;
  return `${running ? "running" : "live"}; ${when}`;
}

async function look() {
  const newest = seen.rounds.at(-1);
  const headers = seen.tag ? { "If-None-Match": seen.tag } : {};
  const reply = await fetch(`/api/state?since=${newest ? newest.id : 0}`, { headers }).catch(() => null);
  if (reply && reply.status === 401) location.reload();
  if (!reply || !(reply.ok || reply.status === 304)) {
    byId("status").textContent = "The server does not answer; what is shown may be old.";
    byId("status").className = "stale";
    seen.tag = "";
    return;
  }
  if (reply.status === 304) return;
  const state = await reply.json();
  seen.tag = reply.headers.get("ETag");
  if (state.whole) {
    seen.rounds = [];
    seen.cells.clear();
  }
  seen.rounds = [...seen.rounds, ...state.rounds].slice(-ROUNDS);
  for (const cell of state.cells) seen.cells.set(`${cell.node}/${cell.round_id}`, cell);
  const first = seen.rounds.length ? seen.rounds[0].id : 0;
  for (const [key, cell] of seen.cells) if (cell.round_id < first) seen.cells.delete(key);
  state.rounds = seen.rounds;
  byId("status").className = state.running === false ? "ended" : "";
  byId("status").textContent = told(state.running, seen.rounds.at(-1));
  figures(state);
  grid(state);
  byId("nodes").replaceChildren(...state.nodes.map(card));
}

async function forever() {
  await look();
  setTimeout(forever, 1000 * SECONDS);
}
forever();
