// A figure of the package in the page: its words are text, its plot follows the theme and the width, and it can be taken away.
// data: {id, name, title, measured, look, code, verdict, summary, claims, plotly, version, figure: {data, layout}}, see plots.py.

const LEAST = { square: 150, other: 250 };  // pixels that a panel needs
const GAP = { x: 64, y: 78 };  // between panels, pixels
const GREYS = { "#e4e4e4": "grid", "#aaaaaa": "axis", "#bbbbbb": "axis", "#222222": "ink", "#555555": "ink", "#000000": "ink" };
const COLOUR = /#[0-9a-f]{6}\b|rgb\(\s*\d+\s*,\s*\d+\s*,\s*\d+\s*\)/gi;
const AXIS = { automargin: true, title: { font: { size: 13 } }, linecolor: "rgba(128,128,128,.5)" };
const mounted = new WeakMap();
const waiting = new Set();  // figures to draw
let called = false;  // for the next of them

export default function ({ parentElement, data, setTriggerValue }) {
  const figure = parentElement.querySelector(".ar-figure");
  let state = mounted.get(figure);
  if (!state) {
    state = { figure, plot: figure.querySelector(".ar-plot"), drawn: "" };
    mounted.set(figure, state);
    takeAway(state);
    state.observer = new ResizeObserver(() => soon(state));
    state.observer.observe(state.plot);
  }
  Object.assign(state, { data, keep: () => setTriggerValue("keep", true) });
  write(state);
  if (!state.plot.children.length) state.plot.style.minHeight = `${data.figure.layout.height}px`;
  load(data.plotly).then(() => soon(state), () => giveUp(state, "plotly.js did not load"));
  return () => { if (!figure.isConnected) { waiting.delete(state); state.observer.disconnect(); window.Plotly?.purge(state.plot); } };
}

function load(source) {
  window.arPlotly ??= new Promise((done, failed) => {
    const script = Object.assign(document.createElement("script"), { src: source, onload: done, onerror: failed });
    document.head.append(script);
  });
  return window.arPlotly;
}

function giveUp({ figure, plot }, reason) {
  figure.setAttribute("aria-busy", "false");
  plot.textContent = `This figure cannot be drawn: ${reason}. Reload the page.`;
}

function write({ figure, plot, data }) {
  const part = name => figure.querySelector(`.ar-${name}`);
  const put = (node, html) => { if (node.said !== html) node.innerHTML = node.said = html; };
  figure.id = data.id;
  for (const button of figure.querySelectorAll(".ar-take button")) if (button.textContent === "Keep") button.hidden = data.kept;
  put(part("title"), data.title);  // escaped by Python but for indices
  put(part("measured"), data.measured);
  put(part("look"), data.look);
  part("code").textContent = data.code;
  plot.setAttribute("aria-label", `${part("title").textContent}. ${part("measured").textContent}`);
  const claims = part("claims");
  claims.hidden = !data.claims.length;
  claims.dataset.verdict = data.verdict;
  claims.querySelector("summary").textContent = data.summary;
  put(claims.querySelector("ul"), data.claims.map(claim => `<li>${claim}</li>`).join(""));
}

// Words come first, then the plots one by one: those in sight, and the others when nothing else is to be done.
function soon(state) {
  waiting.add(state);
  if (called) return;
  called = true;
  requestAnimationFrame(() => setTimeout(next));
}

function next() {
  called = false;
  const inSight = ({ plot }) => { const { top, bottom } = plot.getBoundingClientRect(); return bottom > 0 && top < innerHeight; };
  const state = [...waiting].find(inSight) ?? [...waiting][0];
  if (!state) return;
  waiting.delete(state);
  try { draw(state); } catch (error) { giveUp(state, error.message); }
  if (!waiting.size) return;
  called = true;
  if ([...waiting].some(inSight) || !window.requestIdleCallback) setTimeout(next);
  else requestIdleCallback(next, { timeout: 200 });
}

function draw(state) {
  const { plot, data, figure } = state, width = plot.clientWidth;
  if (!width || !window.Plotly) return;
  const theme = themeOf(plot), columns = panelsAcross(data.figure.layout, width);
  const key = JSON.stringify([data.version, theme, Math.min(columns, 12), width < 480]);
  if (key === state.drawn) {
    if (plot._fullLayout && plot._fullLayout.width !== width) window.Plotly.relayout(plot, { width });
    return;
  }
  [state.drawn, state.columns] = [key, columns];
  if (data.figure.data[0]?.type === "table") return tabulate(plot, figure, data.figure.data[0]);
  const adapted = adapt(data.figure, theme, width, columns);
  plot.style.minHeight = `${adapted.layout.height}px`;
  window.Plotly.react(plot, adapted.data, { ...adapted.layout, width }, { displayModeBar: false, doubleClick: "reset" }).then(() => {
    figure.setAttribute("aria-busy", "false");
    if (location.hash === `#${data.id}` && !state.seen) { state.seen = true; figure.scrollIntoView(); }
  });
}

// A table is a table of the page.
function tabulate(plot, figure, { header, cells }) {
  const row = (tag, values) => { const line = document.createElement("tr"); for (const value of values) line.append(Object.assign(document.createElement(tag), { textContent: value })); return line; };
  const body = Array.from(cells.values[0], (_, i) => row("td", cells.values.map(column => column[i])));
  const table = document.createElement("table");
  table.append(row("th", header.values), ...body);
  plot.replaceChildren(table);
  plot.setAttribute("role", "presentation");
  plot.style.minHeight = "0";
  for (const button of figure.querySelectorAll(".ar-take button")) if (["SVG", "PNG"].includes(button.textContent)) button.hidden = true;
  figure.setAttribute("aria-busy", "false");
}

function panelsAcross(layout, width) {
  const square = Object.entries(layout).every(([name, axis]) => !name.startsWith("yaxis") || axis.scaleanchor);
  return Math.max(1, Math.floor(width / LEAST[square ? "square" : "other"]));
}

function themeOf(element) {
  const css = name => getComputedStyle(element).getPropertyValue(name).trim();
  const ink = css("--st-text-color") || "#222222", paper = css("--st-background-color") || "#ffffff";
  const dark = luminance(paper) < 0.2;
  return { ink, paper, dark, grid: dark ? "#333a41" : "#e4e4e4", axis: dark ? "#6b747d" : "#aaaaaa", font: css("--st-font") };
}

// --- The figure for a theme and a width ---------------------------------------------------------------------------

export function adapt(figure, theme, width, columns) {
  const text = JSON.stringify(figure).replace(COLOUR, colour => theme[GREYS[colour.toLowerCase()]] ?? legible(colour, theme, 3));
  const { data, layout } = JSON.parse(text);
  if (layout.coloraxis) {
    const signed = layout.coloraxis.cmid != null;
    const dark = signed ? [[0, "#ff8f66"], [0.5, "#2b3138"], [1, "#62b6f0"]] : [[0, "#1d2329"], [1, "#62b6f0"]];
    layout.coloraxis.colorscale = theme.dark ? dark : figure.layout.coloraxis.colorscale;
  }
  if (theme.dark) data.forEach((trace, i) => {  // a scale of its own; cells with text keep their colours
    if (trace.type === "heatmap" && trace.colorscale) trace.colorscale = trace.texttemplate ? figure.data[i].colorscale : [[0, "#1d2329"], [1, "#62b6f0"]];
  });
  for (const note of layout.annotations ?? []) if (note.font?.color) note.font.color = legible(note.font.color, theme, 4.5);
  stack(data, layout, width, columns);
  if (width < 480) {
    layout.margin = { ...layout.margin, l: Math.min(layout.margin.l, 52), r: 8 };
    layout.font = { ...layout.font, size: 12 };
    if (layout.showlegend) layout.height += 22 * Math.ceil(data.filter(trace => trace.showlegend !== false && trace.name).length / 2);
  }
  const { title, template, ...rest } = layout;
  return { data, layout: {
    ...rest, uirevision: "kept", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { ...rest.font, color: theme.ink, family: theme.font || rest.font?.family },
    hoverlabel: { bgcolor: theme.paper, bordercolor: theme.axis, font: { color: theme.ink } },
    template: { layout: { xaxis: AXIS, yaxis: AXIS, coloraxis: { colorbar: { outlinewidth: 0 } } } },
  } };
}

// Panels that would be too narrow side by side come below each other, each with axes of its own.
function stack(data, layout, width, columns) {
  const axis = (letter, id) => layout[letter + "axis" + id.slice(1)] ??= {};
  const pairs = new Map();
  for (const trace of data) if (trace.type !== "table") {
    const [x, y] = [trace.xaxis ?? "x", trace.yaxis ?? "y"];
    pairs.set(x + y, { x, y });
  }
  const panels = [...pairs.values()].map(pair => ({ ...pair, X: axis("x", pair.x).domain ?? [0, 1], Y: axis("y", pair.y).domain ?? [0, 1] }));
  const across = new Set(panels.map(panel => panel.X[0].toFixed(3))).size;
  if (across < 2 && width < 480) scaleBelow(layout, layout.height - layout.margin.t - layout.margin.b);
  if (across < 2 || columns >= across) return;
  const { t, b, l, r } = layout.margin, old = layout.height - t - b;
  panels.sort((p, q) => q.Y[0] - p.Y[0] || p.X[0] - q.X[0]);
  const inner = width - l - r, rows = Math.ceil(panels.length / columns);
  const wide = (inner - (columns - 1) * GAP.x) / columns;
  const square = panels.some(panel => axis("y", panel.y).scaleanchor);
  const high = square ? Math.min(wide, 300) : Math.min(Math.max(...panels.map(panel => (panel.Y[1] - panel.Y[0]) * old)), 300);
  const total = rows * high + (rows - 1) * GAP.y;
  const used = new Set();
  panels.forEach((panel, i) => {
    const column = i % columns, row = Math.floor(i / columns);
    const x0 = column * (wide + GAP.x) / inner, y1 = 1 - row * (high + GAP.y) / total;
    panel.newX = [x0, Math.min(1, x0 + wide / inner)];
    panel.newY = [Math.max(0, y1 - high / total), y1];
    if (used.has(panel.y)) {  // two panels on one axis
      const id = `y${90 + i}`;
      layout[`yaxis${90 + i}`] = { ...axis("y", panel.y), matches: panel.y, anchor: panel.x };
      for (const trace of data) if ((trace.xaxis ?? "x") === panel.x && (trace.yaxis ?? "y") === panel.y) trace.yaxis = id;
      panel.y = id;
      axis("x", panel.x).anchor = id;
    }
    used.add(panel.y);
  });
  for (const note of layout.annotations ?? []) if (note.xref === "paper" && note.yref === "paper") {
    const inside = panel => note.x >= panel.X[0] - 0.02 && note.x <= panel.X[1] + 0.02 && note.y >= panel.Y[0] - 0.02;
    const panel = panels.filter(inside).sort((p, q) => Math.abs(p.Y[1] - note.y) - Math.abs(q.Y[1] - note.y))[0];
    if (!panel) continue;
    note.x = place(note.x, panel.X, panel.newX);
    note.y = place(note.y, panel.Y, panel.newY);
  }
  for (const panel of panels) {
    Object.assign(axis("x", panel.x), { domain: panel.newX, showticklabels: true });
    Object.assign(axis("y", panel.y), { domain: panel.newY, showticklabels: true });
  }
  if (layout.legend?.y < 0) layout.legend.y *= old / total;
  scaleBelow(layout, total);
}

// The scale of colours below what is `high` pixels of panels.
function scaleBelow(layout, high) {
  if (layout.coloraxis?.colorbar) {
    Object.assign(layout.coloraxis.colorbar, { orientation: "h", x: 0.5, y: -58 / high, yanchor: "top", len: 0.9, thickness: 10 });
    layout.margin = { ...layout.margin, b: layout.margin.b + 62 };
  }
  layout.height = high + layout.margin.t + layout.margin.b;
}

const place = (value, [a, b], [c, d]) => c + (value - a) * (d - c) / (b - a);

function channels(colour) {
  if (colour.startsWith("#")) return [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));
  return colour.match(/\d+(\.\d+)?/g)?.slice(0, 3).map(Number) ?? [0, 0, 0];
}

export function luminance(colour) {
  const [r, g, b] = channels(colour).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function contrast(one, other) {
  const [dim, bright] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (bright + 0.05) / (dim + 0.05);
}

// The colour, moved towards the ink until it stands out; on white the palette is left as it is but for text.
function legible(colour, theme, least) {
  if (!theme.dark && least < 4.5) return colour;
  const wanted = theme.dark ? Math.max(least, 4.5) : least, towards = theme.dark ? 255 : 0;
  let now = channels(colour);
  for (let i = 0; i < 20 && contrast(`rgb(${now.join(",")})`, theme.paper) < wanted; i++) now = now.map(c => Math.round(c + (towards - c) * 0.1));
  return `rgb(${now.join(",")})`;
}

// --- Taking it away ------------------------------------------------------------------------------------------------

function takeAway(state) {
  const group = state.figure.querySelector(".ar-take"), code = state.figure.querySelector(".ar-code");
  const image = format => async () => save(await (await fetch(await window.Plotly.toImage(state.plot, size(state.plot, format)))).blob(), `${state.data.name}.${format}`);
  const actions = {
    SVG: ["Save the figure as SVG", image("svg")],
    PNG: ["Save the figure as PNG", image("png")],
    CSV: ["Save what is drawn as a table", () => save(new Blob([table(state.plot._fullData ?? state.data.figure.data)], { type: "text/csv" }), `${state.data.name}.csv`)],
    HTML: ["Save the figure as a page that needs no network", async () => save(new Blob([await page(state)], { type: "text/html" }), `${state.data.name}.html`)],
    Python: ["Show the lines that draw it", button => { code.hidden = !code.hidden; button.setAttribute("aria-expanded", String(!code.hidden)); }],
    Keep: ["Put the figure into the basket, which becomes a report", () => state.keep()],
    Link: ["Copy a link to this figure as it stands", button => copy(button, `${location.href.split("#")[0]}#${state.data.id}`)],
  };
  for (const [label, [title, action]] of Object.entries(actions)) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: label, title });
    button.setAttribute("aria-label", title);
    button.onclick = () => action(button);
    group.append(button);
  }
}

const size = (plot, format) => ({ format, width: plot.clientWidth, height: plot.clientHeight, scale: format === "png" ? 2 : 1 });

async function copy(button, text) {
  const before = button.textContent;
  await navigator.clipboard.writeText(text).then(() => "Copied", () => "Copy it from the address bar").then(said => { button.textContent = said; });
  setTimeout(() => { button.textContent = before; }, 1500);
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// What is drawn in long form: a row per point or entry.
export function table(traces) {
  const quote = value => /[",\n]/.test(value ?? "") ? `"${String(value).replaceAll('"', '""')}"` : value ?? "";
  const rows = [["trace", "x", "y", "z", "error"]];
  for (const trace of traces) {
    const name = trace.name ?? trace.type;
    if (trace.type === "table") {
      const cells = trace.cells.values;
      rows.push([...trace.header.values], ...Array.from(cells[0], (_, i) => cells.map(column => column[i])));
    } else if (trace.z) {
      trace.z.forEach((row, i) => Array.from(row).forEach((z, j) => rows.push([name, trace.x?.[j] ?? j, trace.y?.[i] ?? i, z])));
    } else {
      const [x, y] = [trace.x ?? [], trace.y ?? []], error = trace.error_y?.array ?? trace.error_x?.array ?? [];
      for (let i = 0; i < Math.max(x.length, y.length); i++) rows.push([name, x[i], y[i], "", error[i]]);
    }
  }
  return rows.map(row => row.map(quote).join(",")).join("\n") + "\n";
}

async function page({ plot, data }) {
  const library = await (await fetch(data.plotly)).text();
  const json = value => JSON.stringify(value).replaceAll("<", "\\u003c");
  const { data: traces, layout } = adapt(data.figure, { ink: "#222222", paper: "#ffffff", dark: false, grid: "#e4e4e4", axis: "#aaaaaa" }, plot.clientWidth, 99);
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${data.name}</title><style>body{font-family:sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem}</style>` +
    `<h1 style="font-size:1.2rem">${data.title}</h1><p>${data.measured}</p><div id="plot"></div><p>${data.look}</p>` +
    `<script>${library}</scr` + `ipt><script>Plotly.newPlot("plot", ${json(traces)}, ${json(layout)}, {responsive: true})</scr` + `ipt></html>`;
}
