"use strict";
// Everything shown here came through clients that nobody controls: text is set as text, never as HTML.
const SECONDS = 2;
const OUTCOMES = ["trusted", "cleared", "convicted", "missing", "exhausted", "removed", "dropped", "rejected"];
const byId = (id) => document.getElementById(id);
let shown = "";

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const known = (outcome) => (OUTCOMES.includes(outcome) ? outcome : "unknown");
const number = (value) => (value === null || value === undefined ? "-" : Number(value).toPrecision(4));
const short = (node) => (node.length > 8 ? `\u2026${node.slice(-6)}` : node);

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
  const cells = new Map(state.cells.map((c) => [`${c.node}/${c.round_id}`, c]));
  const table = element("table");
  const head = table.createTHead().insertRow();
  head.append(element("th", "node"));
  for (const r of state.rounds) {
    const th = element("th", r.round, r.failed_closed ? "closed" : "");
    th.title = `round ${r.round}, ${r.at} UTC${r.failed_closed ? ", failed closed" : ""}`;
    head.append(th);
  }
  const body = table.createTBody();
  for (const node of state.nodes) {
    const row = body.insertRow();
    const name = element("th", short(node.node), node.state);
    name.title = node.node;
    row.append(name);
    for (const id of rounds) {
      const cell = cells.get(`${node.node}/${id}`);
      const square = element("button", "", cell ? known(cell.verdict) : "absent");
      square.disabled = !cell;
      if (cell) {
        const what = `${cell.verdict}${cell.withheld ? ` (observed, would have been ${cell.withheld})` : ""}`;
        const label = `node ${cell.node}: ${what}. ${cell.reason}`;
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
  const used = OUTCOMES.filter((o) => state.cells.some((c) => c.verdict === o));
  byId("key").replaceChildren(...used.map((o) => element("span", o, o)));
}

function card(node) {
  const box = element("article", undefined, node.state);
  const head = element("h3");
  head.append(element("span", node.state, "badge"), element("code", node.node));
  const counts = `${node.rounds} rounds, suspected ${node.suspected}, convicted ${node.convicted}, `
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

async function look() {
  const reply = await fetch("/api/state").catch(() => null);
  if (reply && reply.status === 401) location.reload();
  if (!reply || !reply.ok) {
    byId("status").textContent = "The server does not answer; what is shown may be old.";
    byId("status").className = "stale";
    return;
  }
  const text = await reply.text();
  byId("status").className = "";
  const state = JSON.parse(text);
  const last = state.rounds.at(-1);
  byId("status").textContent = last ? `live; last report ${last.at} UTC` : "live; no round yet";
  if (text === shown) return;
  shown = text;
  figures(state);
  grid(state);
  byId("nodes").replaceChildren(...state.nodes.map(card));
}

async function forever() {
  await look();
  setTimeout(forever, 1000 * SECONDS);
}
forever();
