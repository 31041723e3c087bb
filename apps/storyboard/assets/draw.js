// Elements, circles, arrows, charts and heat maps.

const SVG = "http://www.w3.org/2000/svg";
const DEGREE = Math.PI / 180;

/** An element of HTML, or of SVG where `tag` starts with "svg:". */
function el(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Trusted text with tags: every text of the story is a constant or made of numbers. */
function text(tag, html, attributes = {}) {
  const node = el(tag, attributes);
  node.innerHTML = html;
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

/** A number as people read it. */
function shown(x, digits = 2) {
  const size = Math.abs(x);
  if (size < 1e-14) return "0";
  if (size >= 0.001) {
    const fixed = size >= 100 ? x.toFixed(0) : x.toFixed(digits);
    return (Number(fixed) === 0 ? x.toPrecision(1) : fixed).replace("-", "−");
  }
  const [mantissa, power] = x.toExponential(0).split("e");
  return `${mantissa.replace("-", "−")} × 10<sup>−${power.slice(1)}</sup>`;
}

/** Of an angle in radians, between -180 and 180. */
function degrees(angle) {
  const d = Math.round(angle / DEGREE) % 360;
  return d > 180 ? d - 360 : d <= -180 ? d + 360 : d;
}

/** Which shipped model a screen is about. */
function ofModel(name) {
  return text("p", `Model: <code>${name}</code>`, { class: "quiet" });
}

// ---- circles

/** A drawing of the plane with the unit circle; y points up: use `at`. */
function plane(label, extent = 1.45) {
  const svg = el("svg:svg", {
    viewBox: `${-extent} ${-extent} ${2 * extent} ${2 * extent}`, class: "plane", role: "group", "aria-label": label,
  });
  svg.append(
    el("svg:line", { x1: -1, x2: 1, y1: 0, y2: 0, class: "axis" }),
    el("svg:line", { y1: -1, y2: 1, x1: 0, x2: 0, class: "axis" }),
    el("svg:circle", { r: 1, class: "ring" }),
  );
  return svg;
}

/** A dot with a text beside it, so far away from the center. */
function dot(parent, kind, label = "", r = 0.055, away = 0.2) {
  const circle = el("svg:circle", { r, class: `dot ${kind}` });
  const caption = text("svg:text", "", { class: `label ${kind}` });
  caption.innerHTML = label;
  parent.append(circle, caption);
  return {
    nodes: [circle, caption],
    /** `aside` turns the text around the dot, in radians from outwards. */
    at(x, y, aside = 0) {
      const towards = Math.atan2(y, x) + aside;
      set(circle, { cx: x, cy: -y });
      set(caption, { x: x + away * Math.cos(towards), y: -(y + away * Math.sin(towards)) });
    },
    say(html) { caption.innerHTML = html; },
    show(visible) { for (const node of [circle, caption]) node.toggleAttribute("hidden", !visible); },
    name(visible) { caption.toggleAttribute("hidden", !visible); },
  };
}

/** Subscript in SVG. */
function sub(name, index) {
  return `${name}<tspan class="sub" dy=".05">${index}</tspan>`;
}

function arrow(parent, kind) {
  const line = el("svg:line", { class: `arrow ${kind}` });
  const tip = el("svg:path", { class: `tip ${kind}` });
  parent.append(line, tip);
  return {
    from(x, y, dx, dy) {
      const size = Math.hypot(dx, dy), head = Math.min(0.13, size);
      const [ux, uy] = size > 1e-9 ? [dx / size, dy / size] : [0, 0];
      const [ex, ey] = [x + dx, y + dy], [bx, by] = [ex - head * ux, ey - head * uy], w = head * 0.42;
      set(line, { x1: x, y1: -y, x2: bx, y2: -by });
      set(tip, { d: `M${ex} ${-ey}L${bx - w * uy} ${-(by + w * ux)}L${bx + w * uy} ${-(by - w * ux)}Z` });
    },
    show(visible) { for (const node of [line, tip]) node.toggleAttribute("hidden", !visible); },
  };
}

/** The angle of a pointer in a drawing. */
function angleOf(svg, event) {
  const q = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return Math.atan2(-q.y, q.x);
}

/** A point of a circle that is dragged, or moved with the arrow keys: `moved` at every event, `committed` at the end. */
function handle(svg, label, { moved, committed, hit = 0.24 }) {
  const group = el("svg:g", {
    class: "handle", tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": -180, "aria-valuemax": 180,
  });
  group.append(el("svg:circle", { r: hit, class: "hit" }), el("svg:circle", { r: 0.085, class: "knob" }));
  svg.append(group);
  let angle = 0, dragging = false, grip = 0;
  group.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false }); // no scrolling from here
  const turn = (to) => moved(Math.atan2(Math.sin(to), Math.cos(to)));
  group.addEventListener("pointerdown", (event) => {
    group.setPointerCapture(event.pointerId);
    [dragging, grip] = [true, angle - angleOf(svg, event)];
    event.stopPropagation();
  });
  group.addEventListener("pointermove", (event) => dragging && turn(angleOf(svg, event) + grip));
  for (const end of ["pointerup", "pointercancel"]) {
    group.addEventListener(end, () => { if (dragging) { dragging = false; committed(); } });
  }
  group.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: 1, ArrowUp: 1, ArrowRight: -1, ArrowDown: -1, PageUp: 8, PageDown: -8 }[event.key];
    if (!steps) return;
    event.preventDefault();
    turn(angle + 2 * steps * DEGREE);
    committed();
  });
  return {
    node: group,
    /** Put it on the circle; its value is `value`, the angle of its place if left out. */
    at(place, value = place) {
      angle = value;
      set(group, {
        transform: `translate(${Math.cos(place)} ${-Math.sin(place)})`,
        "aria-valuenow": degrees(value), "aria-valuetext": `${degrees(value)} degrees`,
      });
    },
  };
}

// ---- controls

/** A slider of whole numbers: `moved` at every event, `committed` on release. */
function slider(label, low, high, value, { moved, committed }) {
  const output = el("output", {}, String(value));
  const input = el("input", {
    type: "range", min: low, max: high, step: 1, value, "aria-label": label,
    oninput: () => { output.textContent = input.value; moved(Number(input.value)); },
    onchange: () => committed(Number(input.value)),
  });
  return el("label", { class: "slider" }, text("span", label), input, output);
}

/** Buttons of which one is pressed, or none. */
function choices(label, options, chosen, pressed) {
  const group = el("div", { class: "choices", role: "group", "aria-label": label });
  const buttons = Object.entries(options).map(([key, html]) =>
    text("button", html, { type: "button", "data-key": key, "aria-pressed": String(key === chosen) }));
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) set(other, { "aria-pressed": String(other === button) });
      pressed(button.dataset.key);
    });
  }
  group.append(...buttons);
  return group;
}

/** A button that is on or off. */
function toggle(html, on, pressed) {
  const button = text("button", html, { type: "button", class: "toggle", "aria-pressed": String(on) });
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    set(button, { "aria-pressed": String(now) });
    pressed(now);
  });
  return button;
}

function button(html, pressed, attributes = {}) {
  const node = text("button", html, { type: "button", ...attributes });
  node.addEventListener("click", pressed);
  return node;
}

/** What colours and dashes mean: [kind, text] each. */
function legend(...entries) {
  return el("ul", { class: "legend" }, ...entries.map(([kind, html]) =>
    el("li", {}, el("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text("span", html))));
}

// ---- heat maps

/** A matrix of squares, blue where positive, orange where negative, as dark as large. */
function heatmap(rows, columns, label) {
  const svg = el("svg:svg", { viewBox: `0 0 ${columns} ${rows}`, class: "heat", role: "img", "aria-label": label, preserveAspectRatio: "none" });
  const cells = Array.from({ length: rows * columns }, (_, k) => {
    const cell = el("svg:rect", { x: k % columns, y: Math.floor(k / columns), width: 1, height: 1 });
    svg.append(cell);
    return cell;
  });
  const hint = el("svg:title");
  let shownValues = [];
  svg.append(el("svg:rect", { x: 0, y: 0, width: columns, height: rows, class: "border" }), hint);
  svg.addEventListener("pointerover", (event) => {
    const k = cells.indexOf(event.target);
    if (k >= 0) hint.textContent = `row ${Math.floor(k / columns) + 1}, column ${(k % columns) + 1}: ${shownValues[k].toFixed(3)}`;
  });
  return {
    node: svg,
    draw(values, limit) {
      shownValues = values;
      values.forEach((v, k) => set(cells[k], {
        class: v < 0 ? "negative" : "positive", "fill-opacity": Math.min(1, Math.abs(v) / limit).toFixed(3),
      }));
    },
  };
}

// ---- charts

const MARGIN = { left: 46, right: 14, top: 12, bottom: 44 };

/** Axes and curves over numbers; scale is "linear" or "log" for y. Text has its size where the chart has its width. */
function chart(label, { x, y, xLabel, yLabel, scale = "linear", yTicks, xTicks, width = 440, height = 290 }) {
  const { left, right, top, bottom } = MARGIN;
  const svg = el("svg:svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  const f = scale === "log" ? Math.log : (v) => v;
  const X = (v) => left + ((v - x[0]) / (x[1] - x[0])) * (width - left - right);
  const Y = (v) => {
    const share = (f(Math.max(v, scale === "log" ? y[0] : -Infinity)) - f(y[0])) / (f(y[1]) - f(y[0]));
    return height - bottom - Math.min(1.02, share) * (height - top - bottom);
  };
  for (const v of yTicks) {
    svg.append(
      el("svg:line", { x1: left, x2: width - right, y1: Y(v), y2: Y(v), class: "grid" }),
      el("svg:text", { x: left - 6, y: Y(v) + 4, class: "tick end" }, String(v)),
    );
  }
  for (const v of xTicks) {
    svg.append(el("svg:text", { x: X(v), y: height - bottom + 17, class: "tick middle" }, String(v).replace("-", "−")));
  }
  svg.append(
    el("svg:line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }),
    text("svg:text", xLabel, { x: (left + width - right) / 2, y: height - 8, class: "tick middle" }),
    text("svg:text", yLabel, { x: -(top + height - bottom) / 2, y: 12, class: "tick middle", transform: "rotate(-90)" }),
  );
  const path = (curve, upTo) => curve.x
    .map((v, k) => [v, curve.y[k]])
    .filter(([v]) => v <= upTo)
    .map(([v, w], k) => `${k ? "L" : "M"}${X(v).toFixed(1)} ${Y(w).toFixed(1)}`).join("");
  return {
    node: svg, X, Y,
    /** A line; `draw` may end it at some x. */
    line(kind) {
      const node = el("svg:path", { class: `curve ${kind}` });
      svg.append(node);
      return { node, draw: (curve, upTo = Infinity) => set(node, { d: path(curve, upTo) }) };
    },
    /** Dots with intervals of two standard errors. */
    dots(kind, curve) {
      const group = el("svg:g", { class: kind });
      curve.x.forEach((v, k) => {
        const se = curve.se[k] || 0, [low, high] = [Y(curve.y[k] - 2 * se), Y(curve.y[k] + 2 * se)];
        group.append(
          el("svg:line", { x1: X(v), x2: X(v), y1: low, y2: high, class: "interval" }),
          el("svg:circle", { cx: X(v), cy: Y(curve.y[k]), r: 4, class: `dot ${kind}` }),
        );
      });
      svg.append(group);
      return group;
    },
    mark(kind, r = 6) {
      const node = el("svg:circle", { r, class: `dot ${kind}` });
      svg.append(node);
      return { node, at: (v, w) => set(node, { cx: X(v), cy: Y(w) }) };
    },
    /** A number on the x axis that is pointed out. */
    rule(v, html) {
      svg.append(
        el("svg:line", { x1: X(v), x2: X(v), y1: top, y2: height - bottom, class: "rule" }),
        text("svg:text", html, { x: X(v), y: top + 4, class: `tick ${X(v) > width / 2 ? "end" : ""}`, dx: X(v) > width / 2 ? -5 : 5, dy: 6 }),
      );
    },
  };
}
