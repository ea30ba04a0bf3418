// What is drawn once, and who listens.

/** Draw all that follows the choice; what had the focus has it again. */
function show() {
  const key = document.activeElement?.dataset?.key;
  for (const part of [heat, partitions, summary, why, controls, table, use]) part();
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({preventScroll: true});
  const place = new URLSearchParams({graph: current().graph, target: DATA.targets[chosen.target].name});
  history.replaceState(null, "", `#${place}`);
}

/** Choose what the address names, else the first cell that has something to tell. */
function begin() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const graph = DATA.cells[0].findIndex((cell) => cell.graph === wanted.get("graph"));
  const target = DATA.targets.findIndex((one) => one.name === wanted.get("target"));
  const split = DATA.cells.map((cells) => cells.findIndex((cell) => cell.outcome === "split"));
  const first = split.findIndex((one) => one >= 0);
  chosen.target = Math.max(0, target >= 0 ? target : first);
  chosen.graph = Math.max(0, graph >= 0 ? graph : split[chosen.target]);
}

function start() {
  const graphs = DATA.cells[0].length, targets = DATA.targets.length;
  const title = `${DATA.subject} on ${targets === 1 ? DATA.targets[0].name : counted(targets, "target")}`;
  document.title = `${title} · m4c`;
  byId("title").textContent = title;
  const levels = new Set(DATA.cells.flat().map((cell) => cell.evidence).filter(Boolean));
  byId("lead").textContent = `${counted(graphs, "graph")}. Which operators of each run on the target, in how many pieces, and why not. `
    + [...levels].map((level) => `Evidence: ${level}, ${DATA.levels[level]}.`).join(" ");
  byId("foot").textContent = `m4c ${DATA.version}. This page needs no network.`;
  byId("graph").replaceChildren(...DATA.cells[0].map((cell, index) => make("option", {value: index}, cell.graph)));
  byId("target").replaceChildren(...DATA.targets.map((target, index) => make("option", {value: index}, target.name)));
  legend("heat-legend", Object.entries(WORDS).map(([outcome, words]) => [SIGNS[outcome], words]).concat([["in 7", "in so many partitions"]]));
  legend("map-legend", [["var(--on)", "on the target, one partition"], ["var(--on-2)", "the next partition"],
    ["var(--left)", "could run there, is left to the CPU"], ["var(--off)", "does not run there"]]);

  byId("heat").addEventListener("keydown", moveInHeat);
  byId("metric").addEventListener("change", (event) => choose({metric: event.target.value}));
  byId("graph").addEventListener("change", (event) => choose({graph: Number(event.target.value)}));
  byId("target").addEventListener("change", (event) => choose({target: Number(event.target.value)}));
  byId("operator").addEventListener("change", (event) => choose({operator: event.target.value}));
  byId("search").addEventListener("input", (event) => { chosen.search = event.target.value; chosen.rows = MOST_ROWS; table(); });
  for (const box of document.querySelectorAll('input[name="place"]')) box.addEventListener("change", table);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    for (const box of document.querySelectorAll('input[name="place"]')) box.checked = true;
    choose({operator: "", search: ""});
  });
  byId("more").addEventListener("click", () => { chosen.rows = Infinity; table(); });
  begin();
  show();
  if (DATA.growth) {
    byId("growth-section").hidden = false;
    byId("level").replaceChildren(...Object.entries(DATA.growth.levels).map(([level, words]) => make("option", {value: level}, `${level}: ${words}`)));
    byId("level").value = "optimized";
    byId("level").addEventListener("change", growth);
    growth();
  }
}

start();
