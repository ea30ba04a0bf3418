"use strict";
// What the page knows, what is chosen, and the parts that follow the choice. Texts become text nodes: nothing is parsed as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const OFF = -1, LEFT = 0;
const MOST_ROWS = 400;
const SIGNS = {"whole": "●", "split": "◐", "refused": "○", "not converted": "✕"};
const WORDS = {
  "whole": "all of it runs there", "split": "some of it runs there", "refused": "none of it runs there",
  "not converted": "there is no file in its format",
};
const chosen = {graph: 0, target: 0, metric: "nodes", operator: "", search: "", rows: MOST_ROWS};

const byId = (id) => document.getElementById(id);
const text = (place) => DATA.texts[place];

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "path", "line", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else if (name.startsWith("aria-") || typeof value !== "boolean") node.setAttribute(name, value);
    else node.toggleAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function amount(count, unit = "") {
  for (const [power, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (count >= power) return `${(count / power).toFixed(1)} ${letter}${unit}`;
  return `${count} ${unit}`.trim();
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const percent = (part) => part > 0.99 && part < 1 ? "99 %" : part > 0 && part < 0.01 ? "1 %" : `${Math.round(part * 100)} %`;
const cellOf = (graph, target) => DATA.cells[target][graph];
const current = () => cellOf(chosen.graph, chosen.target);

/** Return [part, whole] of a cell by the chosen metric; without multiply-accumulates it is the nodes'. */
function shareOf(cell) {
  if (cell.outcome === "not converted") return [0, 0];
  const [whole, part] = cell[chosen.metric];
  return whole ? [part, whole] : [cell.nodes[1], cell.nodes[0]];
}

/** Return the nodes of a cell: number, operator, module, result, place, reasons. */
function nodesOf(cell) {
  if (cell.outcome === "not converted") return [];
  const [operators, modules, results] = DATA.graphs[cell.form];
  const places = [];
  for (let i = 0; i < cell.runs.length; i += 2)
    for (let n = 0; n < cell.runs[i + 1]; n++) places.push(cell.runs[i]);
  return operators.map((operator, index) => ({
    index, operator: text(operator), module: text(modules[index]), result: text(results[index]), place: places[index],
    why: (cell.why[index] || []).map((reason) => DATA.reasons[reason].map(text)),
  }));
}

function colourOf(place) {
  if (place === OFF) return "var(--off)";
  if (place === LEFT) return "var(--left)";
  return place % 2 ? "var(--on)" : "var(--on-2)";
}

const wordsOf = (place) => place === OFF ? "no" : place === LEFT ? "could, is left" : `partition ${place}`;

function choose(change) {
  Object.assign(chosen, change, {rows: MOST_ROWS});
  if ("graph" in change || "target" in change) {
    const known = new Set(nodesOf(current()).map((node) => node.operator));
    if (!known.has(chosen.operator)) chosen.operator = "";
  }
  show();
}

// The map of coverage

function heat() {
  const head = make("tr", {}, make("th", {scope: "col"}, "Graph"),
    ...DATA.targets.map((target) => make("th", {scope: "col", title: target.summary}, target.name)));
  const rows = DATA.cells[0].map((cell, graph) => {
    const [submodel, ...rest] = cell.graph.split("/");
    const name = make("th", {scope: "row"}, submodel, rest.length ? make("small", {}, `/${rest.join("/")}`) : "");
    return make("tr", {}, name, ...DATA.targets.map((_, target) => heatCell(graph, target)));
  });
  byId("heat").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows, total()));
}

/** Return the class of a share: six steps, so that equal colours mean equal things. */
function stepOf(part) {
  if (part === 0 || part === 1) return part ? "full" : "zero";
  return `step-${Math.ceil(part * 4)}`;
}

function heatCell(graph, target) {
  const cell = cellOf(graph, target);
  const [part, whole] = shareOf(cell);
  const none = cell.outcome === "not converted";
  const here = graph === chosen.graph && target === chosen.target;
  const parts = none || cell.partitions < 2 ? "" : ` in ${cell.partitions}`;
  const label = `${cell.graph} on ${DATA.targets[target].name}: `
    + (none ? `not converted, ${cell.why}` : `${percent(part / whole)}, ${counted(cell.partitions, "partition")}, ${WORDS[cell.outcome]}`);
  return make("td", {
    role: "gridcell", tabindex: here ? 0 : -1, "aria-selected": here, "aria-label": label, title: label,
    class: none || !whole ? "none" : stepOf(part / whole), "data-graph": graph, "data-target": target, "data-key": `${graph} ${target}`,
    onclick: () => choose({graph, target}),
  }, make("span", {class: "sign"}, SIGNS[cell.outcome]), none ? "–" : percent(part / whole), parts ? make("small", {}, parts) : "");
}

function total() {
  return make("tr", {class: "total"}, make("th", {scope: "row"}, "all graphs"), ...DATA.targets.map((_, target) => {
    const shares = DATA.cells[target].filter((cell) => cell.outcome !== "not converted").map((cell) => cell[chosen.metric]);
    const [whole, part] = [0, 1].map((index) => shares.reduce((sum, share) => sum + share[index], 0));
    const all = DATA.cells[target].filter((cell) => cell.outcome === "whole").length;
    return make("td", {title: `${all} of ${counted(DATA.cells[target].length, "graph")} run wholly`, class: whole ? stepOf(part / whole) : "none"},
      whole ? percent(part / whole) : "–");
  }));
}

function moveInHeat(event) {
  const steps = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
  const cell = event.target.closest("td[data-graph]");
  if (!cell) return;
  let graph = Number(cell.dataset.graph), target = Number(cell.dataset.target);
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose({graph, target});
  } else if (event.key in steps || event.key === "Home" || event.key === "End") {
    event.preventDefault();
    if (event.key === "Home") target = 0;
    else if (event.key === "End") target = DATA.targets.length - 1;
    else [graph, target] = [graph + steps[event.key][0], target + steps[event.key][1]];
  } else return;
  const next = byId("heat").querySelector(`td[data-graph="${graph}"][data-target="${target}"]`);
  if (!next) return;
  for (const other of byId("heat").querySelectorAll('td[tabindex="0"]')) other.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// The nodes of the chosen cell

function summary() {
  const cell = current(), target = DATA.targets[chosen.target];
  const parts = [`${cell.graph} on ${target.name} (${target.summary}): `];
  if (cell.outcome === "not converted") parts.push(`not converted. ${cell.why}. Fix: ${cell.fix}.`);
  else {
    const macs = cell.macs[0] ? ` and ${amount(cell.macs[1])} of ${amount(cell.macs[0])} multiply-accumulates` : "";
    parts.push(`${cell.nodes[1]} of ${counted(cell.nodes[0], "node")}${macs} run there, in ${counted(cell.partitions, "partition")}; ${amount(cell.crossing, "B")} cross their borders in a call.`);
    if (cell.seconds) parts.push(` At least ${(cell.seconds * 1e3).toPrecision(3)} ms there, by published figures.`);
    if (cell.refused !== null) parts.push(` The whole model is refused: ${text(DATA.reasons[cell.refused][0])}.`);
    parts.push(` ${cell.runtime}. Evidence: ${cell.evidence}, ${DATA.levels[cell.evidence]}.`);
    if (cell.assumed) parts.push(` Judged as if quantized to ${cell.assumed}: nothing was calibrated.`);
  }
  byId("cell-summary").replaceChildren(...parts);
}

/** Show each reason with its fix, nodes of one operator and one fix together, the most frequent first. */
function why() {
  const groups = new Map();
  for (const node of nodesOf(current())) for (const [said, fix, source] of node.why) {
    const key = JSON.stringify([node.operator, fix, source]);
    if (!groups.has(key)) groups.set(key, {operator: node.operator, said, fix, source, nodes: new Set()});
    groups.get(key).nodes.add(node.index);
  }
  const found = [...groups.values()].sort((a, b) => b.nodes.size - a.nodes.size);
  const rows = found.map((one) => make("li", {},
    make("button", {type: "button", "data-key": `why ${one.operator} ${one.fix}`, onclick: () => choose({operator: one.operator, search: ""})}, `${one.operator} × ${one.nodes.size}`),
    make("div", {}, make("div", {}, one.said), make("div", {class: "fix"}, one.fix), make("div", {class: "source"}, one.source))));
  const none = current().outcome === "whole" ? "Nothing: every node runs there." : "";
  byId("why").replaceChildren(rows.length ? make("ul", {}, ...rows) : make("p", {}, none));
}

function filtered() {
  const wanted = new Set([...document.querySelectorAll('input[name="place"]:checked')].map((box) => box.value));
  const words = chosen.search.toLowerCase().split(/\s+/).filter(Boolean);
  return nodesOf(current()).filter((node) => {
    const kind = node.place === OFF ? "off" : node.place === LEFT ? "left" : "on";
    if (!wanted.has(kind) || (chosen.operator && node.operator !== chosen.operator)) return false;
    const all = [node.operator, node.module, node.result, wordsOf(node.place), ...node.why.flat()].join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

function table() {
  const found = filtered(), all = nodesOf(current()).length;
  byId("count").textContent = `${found.length} of ${counted(all, "node")}`;
  byId("rows").replaceChildren(...found.slice(0, chosen.rows).map((node) => make("tr", {},
    make("td", {class: "num"}, String(node.index)),
    make("td", {}, node.operator),
    make("td", {class: "name"}, node.module),
    make("td", {class: "name"}, node.result),
    make("td", {class: "place"}, make("i", {style: `background: ${colourOf(node.place)}`}), wordsOf(node.place)),
    make("td", {}, ...node.why.map(([said, fix]) => make("div", {}, said, make("div", {class: "fix"}, fix)))))));
  byId("more").hidden = found.length <= chosen.rows;
  byId("more").textContent = `Show ${counted(found.length - chosen.rows, "more node")}`;
}

function controls() {
  byId("graph").value = String(chosen.graph);
  byId("target").value = String(chosen.target);
  byId("metric").value = chosen.metric;
  const operators = [...new Set(nodesOf(current()).map((node) => node.operator))].sort();
  byId("operator").replaceChildren(make("option", {value: ""}, "all"), ...operators.map((name) => make("option", {value: name}, name)));
  byId("operator").value = chosen.operator;
  if (byId("search").value !== chosen.search) byId("search").value = chosen.search;
}
