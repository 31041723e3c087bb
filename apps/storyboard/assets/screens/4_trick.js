const LENGTH = 6, BEFORE = -50 * DEGREE; // tokens in the context; where s_{T-1} is drawn

const trick = {
  title: "One pair of tokens is enough, if you know a trick",
  params: { angle: wholeNumber(50, -180, 180), keys: oneOf("both", "both", "last", "previous", "none") },
  build(place, data) {
    const { model, cut_last, cut_previous, claims } = data.pairs;
    const sine = claims["estimate/sin"], percent = (share) => `${Math.max(0, Math.round(100 * share))} %`;
    const others = uniforms(7, CLOCKS - 1).map((u) => 2 * Math.PI * u);
    const svg = plane("The prediction as two arrows, head to tail. Drag s_T to change the angle.", 1.75);
    const older = Array.from({ length: LENGTH - 2 }, () => dot(svg, "faint", "", 0.04));
    const target = dot(svg, "truth", sub("s", "T+1"), 0.085, 0.3);
    const [first, second] = [arrow(svg, "model"), arrow(svg, "you")];
    const tip = dot(svg, "model", "", 0.13), previous = dot(svg, "plain", sub("s", "T−1")), last = dot(svg, "plain", sub("s", "T"));
    const knob = handle(svg, "Angle from the token before to the newest", {
      moved: (to) => { place.move({ angle: degrees(to) }); draw(); }, committed: () => { place.commit({}); tell(); },
    });
    const table = el("table", { class: "weights" }), said = el("div", { class: "reveal", "aria-live": "polite" });
    let off = 0; // of the tip from the next token
    const draw = () => {
      const theta = place.get("angle") * DEGREE, keys = place.get("keys");
      const angles = withMirrors([theta, ...others]), start = BEFORE - theta * (LENGTH - 2);
      const all = tokensOf(angles, LENGTH + 1, withMirrors([start, 0, 0, 0, 0])), tokens = all.slice(0, LENGTH);
      const parts = partsOf(model, patternOf(model, tokens), tokens);
      const on = { last: ["both", "last"].includes(keys), previous: ["both", "previous"].includes(keys) };
      older.forEach((mark, t) => mark.at(tokens[t].re[0], tokens[t].im[0]));
      const [p, q] = [parts[LENGTH - 1], parts[LENGTH - 2]].map((v) => [v.re[0], v.im[0]]);
      const a = on.last ? p : [0, 0], b = on.previous ? q : [0, 0], end = [a[0] + b[0], a[1] + b[1]];
      first.from(0, 0, ...a);
      second.from(...a, ...b);
      first.show(on.last);
      second.show(on.previous);
      tip.at(...end);
      target.at(all[LENGTH].re[0], all[LENGTH].im[0], theta > 0 ? 0.5 : -0.5);
      previous.at(tokens[LENGTH - 2].re[0], tokens[LENGTH - 2].im[0]);
      last.at(tokens[LENGTH - 1].re[0], tokens[LENGTH - 1].im[0], theta > 0 ? -1.2 : 1.2);
      knob.at(BEFORE + theta, theta);
      const read = scoresOf(model, tokens), positions = positionsOf(model, LENGTH);
      const reading = (t) => model.B.reduce((total, head, h) => total + head[0] * read[h][t].re, 0);
      const row = (name, t, is) => `<tr class="${is ? "" : "off"}"><th>${name}</th><td>${shown(reading(t))}</td><td>× ${shown(positions[t])}</td>
        <td><b>= ${shown(is ? reading(t) * positions[t] : 0)}</b></td></tr>`;
      table.innerHTML = `<caption>What multiplies each key, computed from the model's own weights</caption><tr><th>key</th><th>the heads read</th><th>position</th><th>weight</th></tr>
        ${row("<span class='model'><i>s<sub>T</sub></i></span>", LENGTH - 1, on.last)}${row("<span class='you'><i>s</i><sub><i>T</i>−1</sub></span>", LENGTH - 2, on.previous)}
        <tr class="off"><th>all older</th><td></td><td>× ${shown(Math.max(...positions.slice(0, LENGTH - 2).map(Math.abs)))}</td><td><b>= 0</b></td></tr>`;
      off = Math.hypot(end[0] - all[LENGTH].re[0], end[1] - all[LENGTH].im[0]);
    };
    const tell = () => {
      said.innerHTML = `<p>${{
        both: `The tip lies ${shown(off)} from the next token (at any angle at most ${shown(claims["positions/identity"].measured)}). <b>Drag <i>s<sub>T</sub></i> to the other side of <i>s</i><sub><i>T</i>−1</sub></b>:
          at −θ both weights are the same. The model never knows whether the turn goes left or right, and need not: of
          sin θ, the direction, the best linear reading of its scores finds ${percent(sine.measured)} (of an untrained model's scores: ${percent(sine.control)}).`,
        last: `<b>Without <i>s</i><sub><i>T</i>−1</sub></b> the arrow stays on the line of <i>s<sub>T</sub></i>: it misses by exactly one radius, at every angle.
          Theory: error <b>${shown(cut_previous)}</b>, as bad as saying nothing.`,
        previous: `<b>Without <i>s<sub>T</sub></i></b> only −<i>s</i><sub><i>T</i>−1</sub> is left: no angle is in it. Theory: error <b>${shown(cut_last)}</b> on average over all angles,
          twice as bad as saying nothing.`,
        none: "<b>Without both keys</b> nothing is left: the prediction is 0. All older tokens together contribute nothing.",
      }[place.get("keys")]}</p>`;
    };
    const cut = (name) => toggle(`key ${name === "last" ? "<i>s<sub>T</sub></i>" : "<i>s</i><sub><i>T</i>−1</sub>"}`, ["both", name].includes(place.get("keys")), (is) => {
      const other = name === "last" ? "previous" : "last", also = ["both", other].includes(place.get("keys"));
      place.commit({ keys: is ? (also ? "both" : name) : also ? other : "none" });
      draw();
      tell();
    });
    draw();
    tell();
    return {
      question: "Can you continue a turn without knowing whether it goes left or right?",
      stage: [svg, el("div", { class: "buttons", role: "group", "aria-label": "Keys that the model may use" }, cut("last"), cut("previous"))],
      intro: [
        el("p", { class: "equation big" }, text("span", `<i>s</i><sub><i>T</i>+1</sub> = <span class="model">2 cos θ <i>s<sub>T</sub></i></span> <span class="you">− <i>s</i><sub><i>T</i>−1</sub></span>`)),
        text("p", `This identity holds for every turn, and the model has found it. It weighs tokens, its <b>keys</b>, and only the two
          newest count: <i>s<sub>T</sub></i> and <i>s</i><sub><i>T</i>−1</sub>. Five <b>heads</b> compare them with <i>s</i><sub><i>T</i>−1</sub> (the <b>query</b>),
          which estimates 2 cos θ, all that must be known of <i>W</i>. A learned <b>positional weight</b> supplies the −1 and leaves
          out what is older. Switch a key off and look.`),
        ofModel(model.name),
      ],
      side: [table, said],
    };
  },
};
