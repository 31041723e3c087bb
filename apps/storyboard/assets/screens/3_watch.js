const watch = {
  title: "Watching it learn in context",
  params: { T: wholeNumber(4, 1, 50), guess: oneOf(null, "one", "two", "more") },
  build(place, data) {
    const { watched, least_squares, one_step } = data, { dim } = watched;
    const depth = data.depth.find((each) => each.name === watched.name);
    const limit = Math.max(...watched.W.map(Math.abs));
    const maps = [
      ["<i>W</i>, the truth", () => watched.W], ["the model's <i>Ŵ</i><sub><i>T</i></sub>", (T) => watched.estimate[T - 1]],
      ["one gradient step", (T) => watched.step_estimate[T - 1]], ["least squares", (T) => watched.least_squares_estimate[T - 1]],
    ].map(([name, values]) => {
      const map = heatmap(dim, dim, `${name.replace(/<[^>]*>/g, "")}: a matrix of ${dim} rows and columns`);
      return { values, map, node: el("figure", {}, map.node, text("figcaption", name)) };
    });
    const circle = plane("Eigenvalues of W and of the model's estimate", 1.3);
    for (const [x, y] of watched.W_eigenvalues) dot(circle, "truth", "", 0.1).at(x, y);
    const found = watched.eigenvalues[0].map(() => dot(circle, "model", "", 0.14));
    const picture = chart("Error at each context length", {
      x: [1, 50], y: [0, 1], xLabel: "tokens in the context, <tspan class='it'>T</tspan>", yLabel: "error", yTicks: [0, 0.25, 0.5, 0.75, 1], xTicks: [1, 10, 20, 30, 40, 50],
      width: place.room(360, 0.64), height: 240,
    });
    picture.line("step").draw(one_step);
    picture.line("theory").draw(least_squares);
    const curve = picture.line("model"), mark = picture.mark("model full");
    const said = el("div", { class: "reveal", "aria-live": "polite" });
    const draw = (T) => {
      for (const { map, values } of maps) map.draw(values(T), limit);
      found.forEach((point, k) => point.at(...watched.eigenvalues[T - 1][k]));
      const open = place.get("guess") !== null, at = Math.max(T, depth.curve.x[0]);
      curve.draw(depth.curve, open ? Infinity : at);
      mark.at(at, depth.curve.y[at - depth.curve.x[0]]);
    };
    const tell = () => {
      const open = place.get("guess") !== null;
      said.innerHTML = open
        ? `<p>It errs like <b>${shown(depth.steps, 1)} gradient steps</b>, whose sizes are tuned. Two layers do more than two steps, since the
          first layer also prepares the tokens for the second. <b>Least squares</b> is the floor: nothing can be better, and from
          <i>T</i> = ${dim + 1} on it is exact; the model never quite gets there.</p>`
        : "<p>The two dashed curves are theory, drawn before anything was measured. Where will the model's curve run?</p>";
    };
    tell();
    draw(place.get("T"));
    const asked = choices("The model is as good as", { one: "one gradient step", two: "two steps", more: "more steps" }, place.get("guess"),
      (guess) => { place.commit({ guess }); tell(); draw(place.get("T")); });
    return {
      question: "How well does a model with two layers find <i>W</i> while it reads?",
      stage: [
        slider("Tokens seen, <i>T</i>", 1, 50, place.get("T"), {
          moved: (T) => { place.move({ T }); draw(T); }, committed: (T) => place.commit({ T }),
        }),
        el("div", { class: "maps four" }, ...maps.map((each) => each.node)),
        el("div", { class: "pair" }, el("figure", { class: "third" }, circle, text("figcaption", "eigenvalues of <i>W</i> and <i>Ŵ</i>")), picture.node),
        legend(["truth", "<i>W</i>"], ["model", "the model"], ["dashed step", "one gradient step (theory)"], ["dashed", "least squares (theory)"]),
      ],
      intro: [
        text("p", `A harder game: <i>W</i> is any rotation or reflection of a space of <i>d</i> = ${dim} dimensions, and no
          circles are given. <b><i>Ŵ</i><sub><i>T</i></sub></b> (“W hat”) is what the model takes for <i>W</i> after
          <b><i>T</i></b> tokens, read off its inside: how its prediction answers to the newest token.`),
        text("p", `Two ways to find <i>W</i> by the book: a <b>gradient step</b> (start at <i>W</i> = 0, take one step
          towards what explains the pairs of neighbours seen so far) and <b>least squares</b> (the <i>W</i> that explains them best).`),
        ofModel(watched.name),
      ],
      side: [
        text("p", "<b>Your guess:</b> with two layers the model is as good as"), asked, said,
      ],
    };
  },
};
