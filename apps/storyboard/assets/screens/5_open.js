const TRIALS = 400; // sequences over which the error is averaged in the browser

function meanError(model, chosen) {
  const kept = { ...model, A: model.A.filter((_, h) => chosen[h]), B: model.B.filter((_, h) => chosen[h]) };
  if (!kept.A.length) return 1;
  let total = 0;
  for (let n = 0; n < TRIALS; n++) {
    const all = tokensOf(withMirrors(uniforms(5000 + n, CLOCKS).map((u) => 2 * Math.PI * u)), LENGTH + 1);
    total += relativeError(predict(kept, all.slice(0, LENGTH)), all[LENGTH]) / TRIALS;
  }
  return total;
}

const open = {
  title: "Open it",
  params: { heads: switches(5), guess: oneOf(null, "yes", "no") },
  build(place, data) {
    const { model, C, M, P, cut_head, claims } = data.pairs;
    const d = model.dim, H = model.A.length, length = model.n_ctx - 1;
    const chosen = () => [...place.get("heads")].map((bit) => bit === "1");
    const largest = Math.max(...model.A.flat(), ...model.B.flat(), ...model.A.flat().map((x) => -x));
    const cards = model.A.map((a, h) => {
      const bars = el("svg:svg", { viewBox: "0 0 100 60", class: "weights-of", role: "img", "aria-label": `Weights of head ${h + 1} on the five circles` });
      bars.append(el("svg:line", { x1: 0, x2: 100, y1: 30, y2: 30, class: "axis" }));
      const bar = (value, x, kind) => bars.append(el("svg:rect", {
        x, width: 7, y: value > 0 ? 30 - (27 * value) / largest : 30, height: Math.abs((27 * value) / largest), class: kind,
      }));
      for (let k = 0; k < CLOCKS; k++) {
        bar(a[2 * k], 20 * k + 2.5, "key");
        bar(model.B[h][2 * k], 20 * k + 10.5, "value-of");
      }
      const card = toggle(`<span>head ${h + 1}</span>`, chosen()[h], (is) => {
        const bits = [...place.get("heads")];
        bits[h] = is ? "1" : "0";
        place.commit({ heads: bits.join("") });
        draw();
      });
      card.classList.add("card");
      card.append(bars);
      return card;
    });
    const pair = (name, rows, columns, note) => {
      const maps = ["theory", "the model"].map((of) => heatmap(rows, columns, `${name}, ${of}`));
      const figure = (map, of) => el("figure", {}, map.node, text("figcaption", of));
      return { theory: maps[0], model: maps[1], node: el("div", { class: "compared" },
        text("p", note), figure(maps[0], "theory"), figure(maps[1], "the model")) };
    };
    const circuits = pair("C", d, d, "<b><i>C</i></b>, what all heads do together: which circle’s score moves which circle");
    const overlaps = pair("M", H, H, "<b><i>M</i></b>, overlap of each head’s key with each head’s value");
    const positions = pair("P", length, length + 1, "<b><i>P</i></b>, positional weights: a row for each <i>T</i>, a column for each key");
    const limits = [Math.max(...C.flat()), Math.max(...M.flat()), Math.max(...P.flat())];
    const said = el("div", { class: "reveal" }), readout = el("p", { class: "readout", "aria-live": "polite" });
    const draw = () => {
      const seen = place.get("guess") !== null, on = chosen(), n = on.filter(Boolean).length;
      const off = on.indexOf(false);
      circuits.theory.draw(C.flat(), limits[0]);
      overlaps.theory.draw(M.flat(), limits[1]);
      positions.theory.draw(P.slice(0, length).flat(), limits[2]);
      circuits.model.draw(seen ? circuitOf(model, on).flat() : C.flat().map(() => 0), limits[0]);
      overlaps.model.draw(overlapsOf(model).map((row, h) => row.map((x, k) => (seen && on[h] && on[k] ? x : 0))).flat(), limits[1]);
      positions.model.draw(model.P.slice(0, length).flat().map((x) => (seen ? x : 0)), limits[2]);
      readout.innerHTML = `Error with ${n === H ? "all" : n} heads: <b>${shown(meanError(model, on))}</b>${
        n === H - 1 ? `, in theory <b>${shown(cut_head[off])}</b>` : ""} <span class="quiet">(mean over ${TRIALS} sequences, computed here)</span>`;
      said.innerHTML = !seen
        ? "<p>Theory’s matrices are drawn; the model’s stay covered until you have guessed.</p>"
        : `<p><b>No head owns a circle:</b> each is spread over all five, in a mixture that differs from one training to the next. Yet together
          they make theory’s blocks, one for each circle, and all heads are orthogonal (<i>M</i> is diagonal to
          ${shown(claims["heads/orthogonal"].measured)}). <b>Switch a head off</b> above and watch the blocks of <i>C</i> dissolve.</p>`;
    };
    const asked = choices("Does each head own one circle?", { yes: "yes, one each", no: "no" }, place.get("guess"),
      (guess) => { place.commit({ guess }); draw(); });
    draw();
    return {
      question: "Five circles, five heads. Does each head look after one circle?",
      stage: [
        el("div", { class: "cards", role: "group", "aria-label": "Heads" }, ...cards), readout,
        legend(["bar-key", "key weights <i>a<sub>h</sub></i>"], ["bar-value", "value weights <i>b<sub>h</sub></i>, on circles 1 to 5"]),
        el("div", { class: "comparisons" }, circuits.node, overlaps.node, positions.node),
      ],
      intro: [
        text("p", `A head is two lists of weights: <b><i>a<sub>h</sub></i></b> says how much each circle counts when it compares a key with
          the query, and <b><i>b<sub>h</sub></i></b> where it writes the result.`),
        text("p", `Theory predicts three matrices before we look. <i>C</i>: a block of equal numbers for every circle, nothing between circles.
          <i>M</i>: diagonal. <i>P</i>: two bands, <span class="model">+</span> for <i>s<sub>T</sub></i> and half of it, with <span class="you">−</span>,
          for <i>s</i><sub><i>T</i>−1</sub>. (Blue is positive, orange negative.)`),
        ofModel(model.name),
      ],
      side: [text("p", "<b>Your guess:</b> does each head own one circle?"), asked, said],
    };
  },
};
