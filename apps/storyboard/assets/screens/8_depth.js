const depth = {
  title: "Depth",
  params: { layers: wholeNumber(1, 1, 4), guess: oneOf(null, "4", "8", "16", "64") },
  build(place, data) {
    const stacks = data.depth, most = stacks[stacks.length - 1];
    const errors = chart("Error at each context length, for one to four layers", {
      x: [1, 50], y: [0.003, 1], scale: "log", width: place.room(440), height: 230, xLabel: "tokens in the context, <tspan class='it'>T</tspan>", yLabel: "error", yTicks: [0.003, 0.01, 0.03, 0.1, 0.3, 1], xTicks: [1, 10, 20, 30, 40, 50],
    });
    errors.line("step").draw(data.one_step);
    errors.line("theory").draw(data.least_squares);
    const lines = stacks.map(() => errors.line("model"));
    const worth = chart("Gradient steps that the layers are worth", {
      x: [0.7, 4.3], y: [0.8, 24], scale: "log", width: place.room(440), height: 210, xLabel: "layers", yLabel: "gradient steps", yTicks: [1, 2, 4, 8, 16], xTicks: [1, 2, 3, 4],
    });
    const counts = stacks.map((each) => each.n_layers);
    worth.line("step").draw({ x: counts, y: counts });
    worth.line("theory").draw({ x: counts, y: counts.map((L) => 2 ** L) });
    const marks = stacks.map((each) => worth.dots("model full", {
      x: [each.n_layers], y: [each.steps], se: [(each.interval[1] - each.interval[0]) / 4],
    }));
    const said = el("div", { class: "reveal short", "aria-live": "polite" }), list = el("div");
    const draw = (L) => {
      const excluded = stacks.filter(({ n_layers, interval: [low, high] }) => 2 ** n_layers < low || 2 ** n_layers > high).length;
      const seen = place.get("guess") !== null, chosen = stacks[L - 1];
      lines.forEach((line, k) => {
        line.draw(stacks[k].curve);
        line.node.classList.toggle("dim", k !== L - 1);
        line.node.toggleAttribute("hidden", k > L - 1 || (!seen && k > 0));
      });
      marks.forEach((mark, k) => mark.toggleAttribute("hidden", k > L - 1 || (!seen && k > 0)));
      said.innerHTML = seen
        ? `<p>You said ${place.get("guess")}; <b>${most.n_layers} layers are worth ${shown(most.steps, 1)} steps</b>
          (${stacks.map((each) => shown(each.steps, 1)).join(", ")} for one, two, three, four). Near a doubling for each layer, but
          not 2<sup>layers</sup> exactly: ${excluded} of ${stacks.length} intervals exclude it.</p>`
        : "<p>In the lower picture are two plain expectations: a step for each layer, or a doubling for each layer.</p>";
      const moved = chosen.not_held.some((claim) => claim.name.startsWith("estimate/swap"));
      const { holds, ...others } = chosen.verdicts;
      const total = Object.values(chosen.verdicts).reduce((a, b) => a + b, 0);
      list.innerHTML = !seen ? "" : `<p><b>${L} layer${L > 1 ? "s" : ""}:</b> ${total} claims were tested, ${holds} hold${
        Object.entries(others).filter(([, n]) => n).map(([verdict, n]) => `, ${n} <span class="you">${n === 1 && verdict === "fails" ? "fails" : verdict === "fails" ? "fail" : verdict}</span>`).join("")}.</p>${
        chosen.not_held.map((claim) => `<details><summary><span class="badge">${claim.verdict}</span> ${typeset(claim.statement.split(":")[0])}</summary>
          <p>${typeset(claim.statement)}</p><p>Predicted ${number(claim.predicted)}, measured ${number(claim.measured)}.</p></details>`).join("")}${moved ? `<p class="quiet">What fails tells as much: in deep stacks the estimate cannot be moved as on screen 6,
          since the queries of later layers carry a second copy of <i>W</i>.</p>` : ""}`;
    };
    draw(place.get("layers"));
    const asked = choices("Gradient steps", { 4: "4", 8: "8", 16: "16", 64: "64" }, place.get("guess"), (guess) => { place.commit({ guess, layers: 4 }); place.restart({}); });
    return {
      question: "One layer is worth about one gradient step. How many are four layers worth?",
      stage: [
        slider("Layers", 1, 4, place.get("layers"), {
          moved: (layers) => { place.move({ layers }); draw(layers); }, committed: (layers) => place.commit({ layers }),
        }),
        errors.node, legend(["model", "the models"], ["dashed step", "one gradient step"], ["dashed", "least squares"]),
        worth.node, legend(["model", "the models"], ["dashed step", "a step for each layer"], ["dashed", "a doubling for each layer"]),
      ],
      intro: [
        text("p", `Layers stacked on each other refine the estimate. “Worth <i>k</i> steps” means: the same mean error as <i>k</i> steps of
          gradient descent with tuned sizes, on the same contexts.`),
      ],
      side: [text("p", "<b>Your guess:</b> four layers are worth"), asked, said, list],
    };
  },
};

function escaped(statement) {
  return el("p", {}, statement).innerHTML;
}

/** The statement of a claim, with its subscripts. */
function typeset(statement) {
  const bare = (index) => index.replace(/[{}]/g, "");
  return escaped(statement)
    .replace(/_(\{[^}]*\}|\w+)/g, (_, index) => `<sub>${bare(index)}</sub>`)
    .replace(/\^(\{[^}]*\}|\w+)/g, (_, index) => `<sup>${bare(index)}</sup>`);
}

function number(value) {
  return typeof value === "number" ? shown(value) : escaped(String(value));
}
