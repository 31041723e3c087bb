const CLOCKS = 5, SHOWN = 8;

const game = {
  title: "The game",
  params: { angles: angleList([40, -70, 110, 15, -150]), clock: wholeNumber(0, 0, CLOCKS - 1) },
  build(place) {
    const svg = plane("The tokens of one circle. Drag the second one to change the angle.");
    const turn = el("svg:path", { class: "turn" });
    const jumps = Array.from({ length: SHOWN - 1 }, () => el("svg:line", { class: "jump" }));
    svg.append(turn, ...jumps);
    const marks = Array.from({ length: SHOWN }, (_, t) => dot(svg, "plain", sub("s", t + 1)));
    const knob = handle(svg, "Angle of W", {
      moved: (to) => {
        const angles = [...place.get("angles")];
        angles[place.get("clock")] = degrees(to);
        place.move({ angles });
        draw(false);
      },
      committed: () => { place.commit({}); tell(); },
    });
    const matrix = el("div", { class: "equation", "aria-live": "off" });
    const surprise = el("div", { class: "reveal" });
    const small = Array.from({ length: CLOCKS }, (_, k) => {
      const face = plane(`Circle ${k + 1}`, 1.25);
      const points = Array.from({ length: SHOWN }, () => dot(face, "plain", "", 0.09));
      const face_button = el("button", { type: "button", class: "face", "aria-label": `Circle ${k + 1}` }, face);
      face_button.addEventListener("click", () => { place.commit({ clock: k }); draw(); });
      return { face_button, points };
    });
    /** While an angle is dragged the other circles stay as they are. */
    const draw = (all = true) => {
      const angles = place.get("angles"), clock = place.get("clock"), angle = angles[clock] * DEGREE;
      const tokens = tokensOf(angles.map((d) => d * DEGREE), SHOWN);
      const near = (t, u) => Math.hypot(tokens[t].re[clock] - tokens[u].re[clock], tokens[t].im[clock] - tokens[u].im[clock]) < 0.22;
      marks.forEach((mark, t) => {
        mark.at(tokens[t].re[clock], tokens[t].im[clock]);
        mark.name(!marks.slice(0, t).some((_, u) => near(t, u)));
      });
      jumps.forEach((jump, t) => set(jump, {
        x1: tokens[t].re[clock], y1: -tokens[t].im[clock], x2: tokens[t + 1].re[clock], y2: -tokens[t + 1].im[clock],
      }));
      set(turn, { d: `M.35 0A.35 .35 0 0 ${angle > 0 ? 0 : 1} ${0.35 * Math.cos(angle)} ${-0.35 * Math.sin(angle)}` });
      knob.at(angle);
      small.forEach(({ face_button, points }, k) => {
        if (!all && k !== clock) return;
        set(face_button, { "aria-pressed": String(k === clock) });
        points.forEach((point, t) => point.at(tokens[t].re[k], tokens[t].im[k]));
      });
      const [c, s] = [Math.cos(angle), Math.sin(angle)].map((x) => shown(x));
      matrix.innerHTML = `<span class="big"><i>s</i><sub><i>t</i>+1</sub> = <i>W s</i><sub><i>t</i></sub></span>
        <span>with <i>W</i> =</span> <span class="matrix"><span>${c}</span><span>${shown(-Math.sin(angle))}</span><span>${s}</span>
        <span>${c}</span></span> <span class="quiet">a turn by θ = ${degrees(angle)}°</span>`;
    };
    const tell = () => {
      const touched = String(place.get("angles")) !== String(game.params.angles.otherwise);
      surprise.innerHTML = touched
        ? `<p><b>The whole future hangs on the angles.</b> Move one and every later token moves. And the other way round:
          two neighbouring tokens, <i>s</i><sub>1</sub> and <i>s</i><sub>2</sub>, already show every angle. So two tokens
          are enough to continue forever, for whoever knows that the rule is a turn.</p>`
        : "<p>Drag the round handle at <i>s</i><sub>2</sub>, or choose another circle.</p>";
    };
    draw();
    tell();
    return {
      question: "What is the least that one must know to continue a sequence forever?",
      stage: [svg, text("p", "The five circles of one sequence; choose one:", { class: "quiet" }), el("div", { class: "faces" }, ...small.map((each) => each.face_button))],
      intro: [
        matrix,
        text("p", `<b><i>s</i><sub><i>t</i></sub></b> is where the point is at time <i>t</i>; such a piece of a sequence is
          called a <b>token</b>. <b><i>W</i></b> is the rule that makes the next token from the present one. Here it
          turns the circle by an angle <b>θ</b> (“theta”).`),
        text("p", `Five such circles, each with an angle of its own, are watched at once: a token has
          <b><i>d</i></b> = 10 numbers, two for each circle, and <i>W</i> is made of five turns.`),
      ],
      side: [surprise],
    };
  },
};
