const HEARD = 6; // tokens in the context

const GUESSES = {
  less: ["small", "small"], same: ["as bad as saying nothing", "as bad as saying nothing"], more: ["worse", "worse than saying nothing"],
};

function freshAngles(draw) {
  return uniforms(1000 + draw, CLOCKS).map((u) => 2 * Math.PI * u);
}

const fresh = {
  title: "Why it is hard",
  params: { draw: wholeNumber(1, 1, 400), guess: oneOf(null, ...Object.keys(GUESSES)) },
  build(place, data) {
    const model = data.pairs.model, memory = withMirrors(freshAngles(1));
    const once = (draw) => {
      const angles = withMirrors(freshAngles(draw)), all = tokensOf(angles, HEARD + 1);
      const tokens = all.slice(0, HEARD), last = tokens[HEARD - 1];
      const remembered = {
        re: last.re.map((x, j) => x * Math.cos(memory[j]) - last.im[j] * Math.sin(memory[j])),
        im: last.re.map((x, j) => x * Math.sin(memory[j]) + last.im[j] * Math.cos(memory[j])),
      };
      return { last, next: all[HEARD], model: predict(model, tokens), remembered };
    };
    const faces = Array.from({ length: CLOCKS }, (_, k) => {
      const face = plane(`Circle ${k + 1}`, 1.25);
      const link = el("svg:line", { class: "jump" });
      face.append(link);
      return {
        face, link, last: dot(face, "plain", "", 0.1), next: dot(face, "truth", "", 0.13),
        model: dot(face, "model", "", 0.2), remembered: dot(face, "you", "", 0.1),
      };
    });
    const rows = [
      { key: "silence", name: "says nothing", kind: "plain", expected: 1 },
      { key: "remembered", name: "memorised one <i>W</i>", kind: "you", expected: data.memorised },
      { key: "model", name: "our model", kind: "model", expected: 0 },
    ].map((row) => {
      const fill = el("span", { class: `fill ${row.kind}` }), value = el("span", { class: "value" });
      const mark = el("span", { class: "expected", style: `left:${40 * row.expected}%` });
      const bar = el("div", { class: "bar" }, text("span", row.name, { class: "name" }), el("span", { class: "track" }, fill, mark), value);
      return { ...row, fill, value, mark, bar };
    });
    const count = el("p", { class: "quiet", "aria-live": "polite" }), said = el("div", { class: "reveal short" });
    const draw = () => {
      const n = place.get("draw"), now = once(n);
      faces.forEach((face, k) => {
        for (const name of ["last", "next", "model", "remembered"]) face[name].at(now[name].re[2 * k], now[name].im[2 * k]);
        set(face.link, { x1: now.last.re[2 * k], y1: -now.last.im[2 * k], x2: now.next.re[2 * k], y2: -now.next.im[2 * k] });
      });
      const means = { silence: 1, remembered: 0, model: 0 };
      for (let i = 2; i <= n; i++) {
        const seen = once(i);
        for (const name of ["remembered", "model"]) means[name] += relativeError(seen[name], seen.next) / (n - 1);
      }
      const open = place.get("guess") !== null;
      for (const row of rows) {
        row.mark.toggleAttribute("hidden", !open);
        row.fill.style.width = `${Math.min(100, 40 * means[row.key])}%`;
        row.value.innerHTML = shown(means[row.key]);
      }
      count.innerHTML = n === 1
        ? "This is the sequence whose <i>W</i> was memorised: both are right."
        : `Mean error over ${n - 1} new sequence${n > 2 ? "s" : ""}. 1 is the error of saying nothing at all.`;
      said.innerHTML = open
        ? `<p>You said: ${GUESSES[place.get("guess")][1]}. Theory (the small bars): an old <i>W</i> costs
          <b>${shown(data.memorised)}</b>, <b>${data.memorised > 1 ? "worse than saying nothing" : "no more than saying nothing"}</b>.
          Knowledge of one sequence is a burden in the next. What must be learned is not <i>W</i> but <b>how to find
          <i>W</i></b> in the tokens that came before, the <b>context</b>: this is <b>in-context learning</b>.</p>`
        : "";
    };
    const next = button("New sequence", () => { place.commit({ draw: (place.get("draw") % 400) + 1 }); draw(); }, { class: "main" });
    const asked = choices("Error of the model that memorised", Object.fromEntries(Object.entries(GUESSES).map(([key, [short]]) => [key, short])),
      place.get("guess"), (guess) => { place.commit({ guess }); draw(); });
    draw();
    return {
      question: "A rival has memorised the <i>W</i> of the first sequence. How will it do on the next ones?",
      stage: [
        el("div", { class: "faces still" }, ...faces.map((each) => each.face)),
        legend(["plain", "newest token"], ["truth", "next token"], ["model ring", "our model"], ["you", "memorised <i>W</i>"]),
        next, el("div", { class: "bars" }, ...rows.map((row) => row.bar)), count,
      ],
      intro: [
        text("p", `In this game <b>every sequence has a fresh random <i>W</i></b>. Whatever a network has learned in training,
          it has never met the angles of today's sequence.`),
      ],
      side: [text("p", "<b>Your guess:</b> the error of the rival on new sequences will be"), asked, said],
    };
  },
};
