// Strips, bars and the curve.

function legend(id, entries) {
  byId(id).replaceChildren(...entries.map(([colour, words]) =>
    make("li", {}, colour.startsWith("var") ? make("i", {style: `background: ${colour}`}) : `${colour} `, words)));
}

/** Draw the nodes of a cell as one strip, equal neighbours as one rectangle. */
function strip(cell) {
  const count = cell.outcome === "not converted" ? 0 : cell.nodes[0];
  const svg = make("svg", {viewBox: `0 0 ${Math.max(1, count)} 1`, preserveAspectRatio: "none", "aria-hidden": "true"});
  for (let i = 0, x = 0; count && i < cell.runs.length; x += cell.runs[i + 1], i += 2)
    svg.append(make("rect", {x, y: 0, width: cell.runs[i + 1], height: 1, style: `fill: ${colourOf(cell.runs[i])}`}));
  return svg;
}

function partitions() {
  byId("map-graph").textContent = current().graph;
  byId("map").replaceChildren(...DATA.targets.map((target, index) => {
    const cell = cellOf(chosen.graph, index);
    const words = cell.outcome === "not converted" ? "not converted"
      : `${cell.nodes[1]} of ${counted(cell.nodes[0], "node")} in ${cell.partitions}`;
    return make("button", {
      class: "strip", type: "button", "aria-pressed": index === chosen.target, "aria-label": `${target.name}: ${words}`,
      "data-key": `strip ${index}`, onclick: () => choose({target: index}),
    }, make("span", {}, target.name), strip(cell), make("small", {}, words));
  }));
}

/** Show in how many graphs of the chosen target each operator occurs, and which of its nodes do not run there. */
function use() {
  const cells = DATA.cells[chosen.target].filter((cell) => cell.outcome !== "not converted");
  const found = new Map();
  for (const cell of cells) {
    const here = new Set();
    for (const node of nodesOf(cell)) {
      const one = found.get(node.operator) || {graphs: 0, nodes: 0, off: 0};
      if (!here.has(node.operator)) one.graphs++;
      here.add(node.operator);
      one.nodes++;
      one.off += node.place === OFF;
      found.set(node.operator, one);
    }
  }
  const rows = [...found].sort((a, b) => b[1].graphs - a[1].graphs || b[1].nodes - a[1].nodes);
  byId("use-hint").textContent = `${counted(rows.length, "operator type")} in ${counted(cells.length, "graph")} as ${DATA.targets[chosen.target].name} gets them; `
    + "the bar is the share of graphs that use a type, orange the share of its nodes that does not run there. A bar filters the nodes.";
  byId("use").replaceChildren(...rows.map(([operator, one]) => {
    const share = one.graphs / cells.length, bad = share * one.off / one.nodes;
    const words = `${counted(one.graphs, "graph")}, ${counted(one.nodes, "node")}${one.off ? `, ${one.off} off` : ""}`;
    return make("button", {
      class: "bar", type: "button", "aria-pressed": operator === chosen.operator, "aria-label": `${operator}: ${words}`,
      "data-key": `use ${operator}`, onclick: () => choose({operator: operator === chosen.operator ? "" : operator}),
    }, make("span", {class: "name"}, operator), make("span", {class: "track"},
      make("i", {style: `width: ${(share - bad) * 100}%; background: var(--on)`}),
      make("i", {style: `width: ${bad * 100}%; background: var(--off)`})), make("small", {}, words));
  }));
}

function growth() {
  const level = byId("level").value, known = DATA.growth;
  const union = known.union[level], m4 = known.m4[level], last = union.length;
  const width = 960, height = 330, left = 44, right = 930, low = 290, top = 26;
  const most = Math.max(...union, m4);
  const x = (task) => left + (right - left) * (task - 1) / (last - 1);
  const y = (types) => low - (low - top) * types / most;
  const svg = make("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Operator types after each of ${last} tasks: ${union[0]} after the first, ${union[last - 1]} after the last; M4 needs ${m4}`,
  });
  for (let types = 0; types <= most; types += most > 80 ? 20 : 10) svg.append(
    make("line", {class: "rule", x1: left, x2: right, y1: y(types), y2: y(types)}),
    make("text", {x: left - 8, y: y(types) + 4, "text-anchor": "end"}, String(types)));
  for (const task of [1, 10, 20, 30, 40, 50].filter((one) => one <= last))
    svg.append(make("text", {x: x(task), y: low + 22, "text-anchor": "middle"}, `T${task}`));
  const steps = union.map((types, index) => `${index ? `H${x(index + 1)}V` : `M${x(1)} `}${y(types)}`).join("");
  svg.append(make("path", {class: "fleet", d: steps}),
    make("line", {class: "m4", x1: left, x2: right, y1: y(m4), y2: y(m4)}),
    make("text", {class: "fleet-text", x: right, y: y(union[last - 1]) - 9, "text-anchor": "end"}, `50 models: ${union[last - 1]} types`),
    make("text", {class: "m4-text", x: right, y: y(m4) - 9, "text-anchor": "end"}, `M4: ${m4} types`));
  byId("growth").replaceChildren(svg);
  const head = make("thead", {}, make("tr", {}, ...["Task", "Model", "Types so far", "New"].map((name) => make("th", {scope: "col"}, name))));
  const rows = known.tasks.map(([task, model], index) => make("tr", {},
    make("th", {scope: "row"}, task), make("td", {}, model), make("td", {class: "num"}, String(union[index])),
    make("td", {class: "name"}, known.new[level][index])));
  byId("growth-table").replaceChildren(head, make("tbody", {}, ...rows));
}
