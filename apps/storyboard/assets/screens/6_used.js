const STATES = { own: "its own", moved: "B’s estimate", same: "control: another sequence with A’s <i>W</i>", random: "control: random numbers" };

const used = {
  title: "Is it used?",
  params: { angle: wholeNumber(-100, -180, 180), state: oneOf("own", ...Object.keys(STATES)) },
  build(place, data) {
    const { model, score, controls, n } = data.swap, d = model.dim;
    const anglesA = [0.9, ...uniforms(11, d - 1).map((u) => 2 * Math.PI * u)], phases = uniforms(12, d).map((u) => 2 * Math.PI * u);
    const noise = uniforms(14, 2 * model.A.length * LENGTH).map((u) => 2 * u - 1);
    const tokensA = tokensOf(anglesA, LENGTH), last = tokensA[LENGTH - 1], own = predict(model, tokensA);
    const [svgA, svgB] = ["Sequence A: its tokens, its prediction, and where theory expects it", "Sequence B. Drag its second token to change its W."].map((label) => plane(label, 1.4));
    const path = (svg, kind) => Array.from({ length: LENGTH }, () => dot(svg, kind, "", 0.045));
    const [dotsA, dotsB] = [path(svgA, "faint"), path(svgB, "plain")];
    dotsA.forEach((mark, t) => mark.at(tokensA[t].re[0], tokensA[t].im[0]));
    const newest = dot(svgA, "plain", sub("s", "T"));
    newest.at(last.re[0], last.im[0]);
    const goal = dot(svgA, "goal", "", 0.14), needle = arrow(svgA, "model");
    const knob = handle(svgB, "Angle of B", {
      moved: (to) => { place.move({ angle: degrees(to) }); draw(); }, committed: () => { place.commit({}); tell(); }, hit: 0.4,
    });
    const said = el("div", { class: "reveal", "aria-live": "polite" });
    let from = null, at = null, to = null, turning = 0; // share of the way that is left after a change of estimate
    const frame = () => {
      if (!svgA.isConnected) return;
      turning = Math.max(0, turning - 1 / 24);
      const share = turning ** 2;
      at = to.map((x, k) => x + share * (from[k] - x));
      needle.from(0, 0, ...at);
      if (turning) requestAnimationFrame(frame);
    };
    const turnTo = (...end) => {
      to = end;
      if (!turning || matchMedia("(prefers-reduced-motion: reduce)").matches) [turning, at] = [0, end];
      from = at;
      needle.from(0, 0, ...at);
      if (turning) requestAnimationFrame(frame);
    };
    let off = 0, change = 0; // of the prediction from the ring, from A's own
    const draw = () => {
      const theta = place.get("angle") * DEGREE, state = place.get("state");
      const anglesB = [theta, ...uniforms(13, d - 1).map((u) => 2 * Math.PI * u)];
      const tokensB = tokensOf(anglesB, LENGTH);
      dotsB.forEach((mark, t) => mark.at(tokensB[t].re[0], tokensB[t].im[0]));
      knob.at(theta);
      const patterns = {
        own: () => patternOf(model, tokensA), moved: () => patternOf(model, tokensB),
        same: () => patternOf(model, tokensOf(anglesA, LENGTH, phases)), random: () => randomLike(patternOf(model, tokensB), noise),
      };
      const moved = sumOf(partsOf(model, patterns[state](), tokensA));
      const wanted = [last.re[0] * Math.cos(theta) - last.im[0] * Math.sin(theta), last.re[0] * Math.sin(theta) + last.im[0] * Math.cos(theta)];
      goal.at(...wanted);
      turnTo(moved.re[0], moved.im[0]);
      off = Math.hypot(moved.re[0] - wanted[0], moved.im[0] - wanted[1]);
      change = Math.hypot(moved.re[0] - own.re[0], moved.im[0] - own.im[0]);
    };
    const tell = () => {
      said.innerHTML = `<p>${{
        own: "The arrow is A’s own prediction. The dashed ring is where theory says it must go if B’s estimate is put in: <i>W<sub>B</sub> s<sub>T</sub></i>. Put it in.",
        moved: `<b>The arrow obeys B:</b> its tip is ${shown(off)} from the ring. Drag B and A’s prediction turns with it, though not one token of A has changed.`,
        same: `<b>Nothing happens:</b> the arrow has moved by ${shown(change)}. These tokens are others, their <i>W</i> is A’s: it is <i>W</i> that is carried, not the tokens.`,
        random: `<b>Noise of the same size</b> is no estimate: the arrow goes anywhere (${shown(off)} from the ring), and does not follow B.`,
      }[place.get("state")]}</p><p class="quiet">Over ${n} pairs of sequences: the swap scores ${shown(score)} (1 is all the way to the ring), the best control ${shown(controls, 3)}.</p>`;
    };
    const asked = choices("What multiplies A’s newest token", STATES, place.get("state"), (state) => {
      place.commit({ state });
      turning = 1;
      draw();
      tell();
    });
    draw();
    tell();
    return {
      question: "The model carries an estimate of <i>W</i>. Does the prediction come from it, or does it just lie around?",
      stage: [el("div", { class: "pair even" },
        el("figure", {}, svgA, text("figcaption", "sequence A and the model’s prediction")), el("figure", {}, svgB, text("figcaption", "sequence B: drag it"))),
        legend(["dashed-ring", "where theory expects the tip"], ["model", "the prediction"], ["plain", "tokens"])],
      intro: [
        text("p", `To see that something is in a network is not to know that it is <b>used</b>. So we operate: take the attention of sequence B, in
          which only B’s <i>W</i> is left, and put it into the model while it reads A. (This model keeps ${d} independent circles; one is shown.)`),
        ofModel(model.name),
      ],
      side: [text("p", "<b>Attention put in:</b>"), asked, said],
    };
  },
};

/** Numbers of the same total size as a pattern. */
function randomLike(pattern, noise) {
  const size = (rows) => Math.sqrt(rows.flat().reduce((total, w) => total + w.re ** 2 + w.im ** 2, 0));
  const raw = pattern.map((head, h) => head.map((_, t) => {
    const k = 2 * (h * head.length + t);
    return { re: noise[k], im: noise[k + 1] };
  }));
  const factor = size(pattern) / size(raw);
  return raw.map((head) => head.map((w) => ({ re: factor * w.re, im: factor * w.im })));
}
