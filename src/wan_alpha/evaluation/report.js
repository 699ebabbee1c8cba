"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const systems = Object.keys(data.systems);
const stage = new Stage();
let open = null;

function shown(figure, value) { return value === null || value === undefined ? "NaN" : value.toFixed(figure.digits); }

function estimateCell(figure, estimate, best) {
  if (!estimate) return element("td", {}, "–");
  if (estimate.failed) return element("td", {class: "failed", title: "not a number on some clips: no mean"},
    `NaN (${estimate.failed}/${estimate.count})`);
  const cell = element("td", {class: best ? "best" : ""}, shown(figure, estimate.mean));
  if (estimate.low !== null) cell.append(element("span", {class: "interval"},
    `${shown(figure, estimate.low)} – ${shown(figure, estimate.high)}`));
  return cell;
}

function table(rows, best) {
  const head = element("tr", {}, element("th"), ...systems.map(s => element("th", {scope: "col"}, s)));
  const lines = data.figures.filter(f => systems.some(s => rows[s] && rows[s][f.name])).map(f =>
    element("tr", {}, element("th", {scope: "row", title: f.definition}, `${f.heading} ${f.arrow}`),
      ...systems.map(s => estimateCell(f, (rows[s] || {})[f.name], best && (data.best[f.name] || []).includes(s)))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines));
}

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function plot(figure) {
  const found = systems.map(s => [s, data.systems[s][figure.name]]).filter(([, e]) => e && e.mean !== null);
  if (!found.length) return null;
  const ends = found.flatMap(([, e]) => [e.low ?? e.mean, e.high ?? e.mean, e.mean]);
  let low = Math.min(...ends), high = Math.max(...ends);
  const equal = low === high;
  if (equal) { low -= 0.5; high += 0.5; }
  const x = value => 100 + (value - low) / (high - low) * 190, height = 18 * found.length + 22;
  const picture = svg("svg", {viewBox: `0 0 300 ${height}`, role: "img", "aria-label": figure.heading});
  found.forEach(([system, e], i) => {
    const y = 12 + 18 * i, colour = (data.best[figure.name] || []).includes(system) ? "#0b63ce" : "#565b64";
    picture.append(svg("text", {x: 94, y: y + 4, "text-anchor": "end", "font-size": 11, fill: "#1c1e22"},
      system.length > 15 ? system.slice(0, 14) + "…" : system));
    if (e.low !== null) picture.append(svg("line", {x1: x(e.low), x2: x(e.high), y1: y, y2: y, stroke: colour, "stroke-width": 2}));
    picture.append(svg("circle", {cx: x(e.mean), cy: y, r: 4, fill: colour}));
  });
  picture.append(svg("line", {x1: 100, x2: 290, y1: height - 16, y2: height - 16, stroke: "#b7bcc5"}));
  const marks = equal ? [[195, "middle", ends[0]]] : [[100, "start", low], [290, "end", high]];
  picture.append(...marks.map(([place, anchor, value]) =>
    svg("text", {x: place, y: height - 4, "font-size": 10, fill: "#6b7078", "text-anchor": anchor}, shown(figure, value))));
  return element("div", {class: "plot"}, element("b", {title: figure.definition}, `${figure.heading} ${figure.arrow}`), picture);
}

function drill(clip) {
  for (const b of document.querySelectorAll(".list button")) b.setAttribute("aria-pressed", String(b.dataset.clip === clip.id));
  const holder = document.getElementById("player"), url = videoUrl(`video-${clip.id}`);
  if (open) open.close();
  open = null;
  if (url) { open = new Player(holder, stage, url, data.players[clip.id]); open.video.play().catch(() => {}); }
  else holder.replaceChildren(element("p", {class: "lead"}, "no video of this one in the page"));
  const tags = [clip.category !== "all" ? clip.category : null, clip.expects ? `expects: ${clip.expects}` : null].filter(Boolean);
  document.getElementById("prompt").replaceChildren(element("b", {}, clip.id), ` ${clip.text ?? ""} `,
    element("small", {class: "lead"}, tags.join(" · ")));
  const rows = Object.fromEntries(systems.map(s => [s, Object.fromEntries(Object.entries(
    (data.scores[s] || {})[clip.id] || {}).map(([name, value]) =>
      [name, {mean: value, low: null, high: null, failed: value === null ? 1 : 0, count: 1}]))]));
  document.getElementById("clip-table").replaceChildren(table(rows, false));
}

function fillList(order) {
  const list = document.getElementById("list");
  let clips = [...data.clips];
  if (order) {
    const figure = data.figures.find(f => f.name === order.figure), sign = figure.better === "up" ? 1 : -1;
    const value = clip => { const v = ((data.scores[order.system] || {})[clip.id] || {})[figure.name];
      return v === null || v === undefined ? -Infinity : sign * v; };
    clips.sort((a, b) => value(a) - value(b));
  }
  list.replaceChildren(...clips.map(clip => element("button", {"data-clip": clip.id, onclick: () => drill(clip)},
    clip.id in data.players ? "▸ " : "", clip.id, " ", element("small", {}, clip.text ?? (clip.category === "all" ? "" : clip.category)))));
  if (clips.length) drill(order ? clips[0] : clips.find(clip => clip.id in data.players) ?? clips[0]);
}

function start() {
  document.title = data.title;
  document.getElementById("title").textContent = data.title;
  document.getElementById("lead").textContent = data.lead;
  document.getElementById("main-table").append(table(data.systems, true));
  document.getElementById("plots").append(...data.figures.map(plot).filter(Boolean));
  const groups = {...data.categories};
  if (Object.keys(data.balanced).length) groups["unweighted mean of the categories"] = data.balanced;
  if (Object.keys(groups).length) {
    const choose = element("select", {"aria-label": "category", onchange: e => by(e.target.value)}, ...Object.keys(groups).map(n => element("option", {}, n)));
    const by = name => document.getElementById("category-table").replaceChildren(table(groups[name], false));
    document.getElementById("categories").append(choose); by(Object.keys(groups)[0]);
  } else document.getElementById("category-section").remove();
  if (data.clips.length) {
    const ordered = element("select", {"aria-label": "order", onchange: e => fillList(e.target.value ? JSON.parse(e.target.value) : null)},
      element("option", {value: ""}, "in the list's order"),
      ...systems.flatMap(s => data.figures.filter(f => f.better !== "none" && data.systems[s][f.name] && Object.values(data.scores[s] || {}).some(c => f.name in c))
        .map(f => element("option", {value: JSON.stringify({system: s, figure: f.name})}, `worst first: ${s}, ${f.heading}`))));
    document.getElementById("order").append(ordered);
    document.getElementById("stage").append(stage.controls());
    fillList(null);
  } else document.getElementById("drill-section").remove();
  const notes = document.getElementById("notes");
  for (const [system, clips] of Object.entries(data.left_out)) notes.append(element("li", {},
    `${system}: ${clips.length} not counted, because another system lacks them: ${clips.join(", ")}`));
  notes.append(...data.failures.map(text => element("li", {}, text)));
  if (!notes.children.length) notes.append(element("li", {}, "nothing was left out and nothing failed"));
  document.getElementById("command").textContent = data.command;
  document.getElementById("facts").textContent = JSON.stringify(data.facts, null, 2);
  document.getElementById("config").textContent = JSON.stringify(data.config, null, 2);
  document.getElementById("environment").textContent = JSON.stringify(data.environment, null, 2);
  document.getElementById("definitions").append(...data.figures.flatMap(f => [element("dt", {}, `${f.heading} ${f.arrow}`), element("dd", {}, f.definition)]));
}

start();
