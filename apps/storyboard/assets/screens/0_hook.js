const SEEN = 6; // places of the point: five jumps

/** A point that jumps by the same angle each time, neither too small nor too large to be seen. */
function hookAngles(draw) {
  const [size, side, ...others] = uniforms(draw, 6);
  return [(side < 0.5 ? -1 : 1) * (25 + 125 * size) * DEGREE, ...others.map((u) => 2 * Math.PI * u)];
}

const hook = {
  title: "Where does it jump next?",
  params: { draw: wholeNumber(1, 1, 999), guess: wholeNumber(null, -180, 180) },
  build(place, data) {
    const angles = hookAngles(place.get("draw")), model = data.pairs.model;
    const tokens = tokensOf(withMirrors(angles), SEEN), next = tokensOf(withMirrors(angles), SEEN + 1)[SEEN];
    const predicted = predict(model, tokens);
    const svg = plane("A circle with six places of a jumping point. Click where the seventh will be.");
    for (let t = 1; t < SEEN; t++) {
      const [a, b] = [tokens[t - 1], tokens[t]];
      svg.append(el("svg:line", {
        x1: a.re[0], y1: -a.im[0], x2: b.re[0], y2: -b.im[0], class: "jump appear", style: `--after:${t}`,
      }));
    }
    tokens.forEach((s, t) => {
      const mark = dot(svg, "plain", String(t + 1));
      mark.at(s.re[0], s.im[0]);
      for (const node of mark.nodes) {
        node.classList.add("appear");
        node.style.setProperty("--after", t);
      }
    });
    const truth = dot(svg, "truth", "next", 0.085, 0.32), answer = dot(svg, "model", "", 0.13), mine = dot(svg, "you", "you", 0.055, 0.24);
    const said = el("div", { class: "reveal", "aria-live": "polite" });
    let guess = place.get("guess");
    const knob = handle(svg, "Your guess", { moved: (to) => aim(to), committed: () => {} });
    const aim = (to) => { guess = degrees(to); knob.at(to); };
    const answered = () => { place.commit({ guess }); show(); };
    const show = () => {
      const open = place.get("guess") !== null, at = guess * DEGREE;
      for (const mark of [truth, answer, mine]) mark.show(open);
      knob.node.toggleAttribute("hidden", open);
      svg.classList.toggle("asks", !open);
      enter.toggleAttribute("hidden", open);
      again.toggleAttribute("hidden", !open);
      if (!open) {
        said.innerHTML = "";
        return;
      }
      truth.at(next.re[0], next.im[0]);
      answer.at(predicted.re[0], predicted.im[0]);
      mine.at(Math.cos(at), Math.sin(at));
      const off = Math.abs(degrees(at - Math.atan2(next.im[0], next.re[0])));
      const distance = Math.hypot(predicted.re[0] - next.re[0], predicted.im[0] - next.im[0]);
      said.innerHTML = `<p>You are <b class="you">${off}°</b> off. The model lands <b class="model">${shown(distance)}</b>
        from the point, on a circle of radius 1.</p><p>It had never seen this jump: nothing in its weights knows it. All it
        has are the six places that you have seen too. By the last screen you will know how it does this: it looks at
        <b>two</b> of them, and it uses one trick.</p>`;
    };
    svg.addEventListener("click", (event) => {
      if (place.get("guess") === null) { aim(angleOf(svg, event)); answered(); }
    });
    const enter = button("That is my guess", answered);
    knob.node.addEventListener("keydown", (event) => { if (event.key === "Enter") answered(); });
    const again = button("Another jump", () => place.restart({ draw: (place.get("draw") % 999) + 1, guess: null }));
    if (guess === null) aim(Math.atan2(tokens[SEEN - 1].im[0], tokens[SEEN - 1].re[0]) + 0.5);
    show();
    return {
      question: "You have seen five jumps. Where will the next one end?",
      stage: [svg],
      intro: [
        text("p", `The point jumps around the circle by some rule. It has been at <b>1, 2, … 6</b>. A small neural network,
          a <b>transformer</b>, watches beside you (and four other such circles at the same time).`),
        text("p", "Click on the circle. The model answers after you."),
      ],
      side: [
        el("div", { class: "buttons" }, enter, again),
        legend(["truth", "where it goes"], ["model ring", "the model"], ["you", "you"]), said,
      ],
    };
  },
};
