// What is broken, what the visitor is asked, and what one learns; numbers are filled in from the payload.
const TESTS = {
  cut: {
    name: "cut a key", x: "factor of the weight of s<tspan class='small' dy='3'>T−1</tspan>", said: "The weight of the key <i>s</i><sub><i>T</i>−1</sub> is multiplied by a factor; at 0 the key is cut.",
    asked: () => "error with the key cut (factor 0)", ticks: [-0.5, 0, 0.5, 1, 1.5, 2], y: [0, 0.5, 1, 1.5, 2],
    lesson: () => "A parabola: wrong weights hurt with the square of what is wrong. Without the second key the model is as bad as one that says nothing.",
  },
  turn: {
    name: "turn a head", x: "angle of the turn (radians)", said: "One of the five heads is turned, so that it writes what another one writes; at π its sign is opposite.",
    asked: () => "error with one head reversed (π)", ticks: [0, 1, 2, 3], y: [0, 0.5, 1, 1.5],
    lesson: () => "One head in five, and the model is worse than silent: heads that sum to the right blocks cannot spare one of them.",
  },
  noise: {
    name: "noise", x: "noise in each number, at every jump", said: "Every jump is disturbed at random. The model has never met noise in training.",
    asked: ({ ask }) => `error at noise ${ask}`, ticks: [0, 0.05, 0.1, 0.15, 0.2, 0.25], y: [0, 1, 2, 3, 4, 5, 6],
    lesson: () => "A method that trusts one pair of tokens repeats each error of that pair. Whoever averages over all pairs loses little; this model was never given a reason to.",
  },
  longer: {
    name: "longer contexts", x: "tokens in the context, <tspan class='it'>T</tspan>", said: "A model that takes one gradient step gets contexts twice as long as any in its training. Longer contexts hold more evidence.",
    asked: ({ ask, neutral, theory }) => `error at ${ask} tokens (at ${neutral} it is ${shown(nearest(theory, neutral))})`, ticks: [2, 10, 20, 30, 40], y: [0, 0.5, 1],
    lesson: () => "More evidence, worse predictions: its step is of a fixed size, tuned to the lengths of training, and the sum it multiplies goes on growing.",
  },
  radius: {
    name: "<i>W</i> off the circle", x: "factor of the length at every jump", said: "<i>W</i> does not only turn, it also shrinks (below 1) or stretches (above 1) at each jump.",
    asked: ({ ask }) => `error where each jump changes the length by a factor of ${ask}`, ticks: [0.85, 0.9, 0.95, 1, 1.05], y: [0, 2, 4, 6, 8],
    lesson: () => "To undo a turn the model takes its mirror image. On the circle that is the same as dividing by it, off the circle it is not: below 1 the predictions fade away, above 1 they explode.",
  },
  gaussian: {
    name: "random first tokens", x: "tokens in the context, <tspan class='it'>T</tspan>", said: "First tokens are Gaussian, and the model was <b>trained</b> on such. It takes one gradient step; contexts grow.",
    asked: ({ ask }) => `error at ${ask} tokens`, ticks: [2, 5, 10, 15, 20], y: [0, 0.25, 0.5, 0.75],
    lesson: ({ limit }) => `No context is long enough: with such first tokens one gradient step never gets below ${shown(limit)}. The start of a sequence decides what can be learned from the rest.`,
  },
};

const broken = {
  title: "Break it",
  params: { test: oneOf("cut", ...Object.keys(TESTS)), guess: wholeNumber(null, 0, 100000), measured: oneOf("no", "no", "yes") },
  build(place, data) {
    const key = place.get("test"), test = TESTS[key], found = data.experiments.find((each) => each.key === key);
    const picture = chart(`${test.name.replace(/<[^>]*>/g, "")}: error`, {
      x: found.x_range, y: [0, found.y_max], xLabel: test.x, yLabel: "error", xTicks: test.ticks, yTicks: test.y.filter((v) => v <= found.y_max),
      width: place.room(440), height: 290,
    });
    picture.rule(found.ask, "your guess here");
    const theory = picture.line("theory"), measured = picture.dots("model full", found.measured);
    const mark = picture.mark("you", 7);
    const expected = nearest(found.theory, found.ask), seen = nearest(found.measured, found.ask);
    const step = found.y_max / 100, start = Math.round(0.5 * found.y_max * 1000);
    const told = () => place.get("guess") !== null;
    const value = () => (place.get("guess") ?? start) / 1000;
    const said = el("div", { class: "reveal", "aria-live": "polite" });
    const input = el("input", {
      type: "range", min: 0, max: 100, value: Math.round(value() / step), "aria-label": `Your guess: ${test.asked(found)}`,
      oninput: () => { aim(input.value * step); },
    });
    const output = el("output");
    const aim = (v) => {
      mark.at(found.ask, v);
      output.textContent = v.toFixed(2);
      set(input, { "aria-valuetext": v.toFixed(2) });
    };
    const guess = button("Draw theory’s curve", () => { place.commit({ guess: Math.round(input.value * step * 1000) }); show(); }, { class: "main" });
    const again = button("Guess again", () => place.restart({ guess: null, measured: "no" }));
    const measure = button("Measure the model", () => { place.commit({ measured: "yes" }); show(); }, { class: "main" });
    const show = () => {
      const done = place.get("measured") === "yes";
      theory.node.toggleAttribute("hidden", !told());
      measured.toggleAttribute("hidden", !told() || !done);
      guess.toggleAttribute("hidden", told());
      measure.toggleAttribute("hidden", !told() || done);
      again.toggleAttribute("hidden", !done);
      input.disabled = told();
      theory.draw(found.theory);
      aim(value());
      said.innerHTML = !told() ? "" : `<p>You: <b class="you">${value().toFixed(2)}</b>, theory: <b>${shown(expected)}</b>${done
        ? `, the model: <b class="model">${shown(seen)}</b>.</p><p>${test.lesson(found)}</p>
           <p class="quiet">Dots: mean over ${found.n} sequences at each place, with two standard errors; model <code>${found.model}</code>.</p>`
        : ". Will the model follow?</p>"}`;
    };
    show();
    return {
      question: "Theory draws its curve before anything is measured. What do you expect?",
      stage: [
        choices("What is broken", Object.fromEntries(Object.entries(TESTS).map(([name, each]) => [name, each.name])), key,
          (name) => place.restart({ test: name, guess: null, measured: "no" })),
        picture.node,
        legend(["you", "your guess"], ["dashed", "theory"], ["model", "measured"]),
      ],
      intro: [
        text("p", `${test.said} The error is 0 if all predictions are right, and 1 if the model says nothing.`),
      ],
      side: [
        el("label", { class: "slider" }, text("span", `<b>Your guess:</b> ${test.asked(found)}`), input, output),
        el("div", { class: "buttons" }, guess, measure, again), said,
      ],
    };
  },
};

/** The y of a curve at the x nearest to this one. */
function nearest(curve, x) {
  const distance = curve.x.map((v) => Math.abs(v - x));
  return curve.y[distance.indexOf(Math.min(...distance))];
}
