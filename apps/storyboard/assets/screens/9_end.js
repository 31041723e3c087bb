const CODE = `import ar_interp as ari

checkpoint = ari.load("diagonal-orthogonal-h5")
sequences = checkpoint.process.sample(batch=256, length=21, seed=0)
recovered = ari.recover_context(checkpoint.model, sequences)    # its estimate of W
positions = ari.positional_structure(checkpoint.model)          # the two bands of P
print(positions.ratio)                                          # p_{T-1} / p_T: -1/2
print(ari.ablate_positions(checkpoint.model, sequences).by_component)  # what each key is worth
print(ari.verify(checkpoint).to_frame())                        # every claim, measured again`;

const TRAIN = `config = ari.ModelConfig.diagonal(dim=6, n_heads=3, n_ctx=8)
training = ari.TrainConfig(lr=3e-3, steps=3000, n_seeds=16)
run = ari.train(config, ari.CommutingOrthogonal(6), training)`;

const PAPERS = [
  ["Sander, Giryes, Suzuki, Blondel, Peyré (ICML 2024), <i>How do Transformers perform In-Context Autoregressive Learning?</i>", "https://arxiv.org/abs/2402.05787"],
  ["Zheng et al. (2024), on how the gradient step emerges in training", "https://arxiv.org/abs/2405.16845"],
];

const WAYS_ON = [["models", "All models, by question"], ["heads", "The model of screens 4 and 5"], ["glossary", "Glossary"]];

const end = {
  title: "Take it with you",
  params: {},
  build(place, data) {
    const { cut_previous, cut_last } = data.pairs;
    const answer = (asked, said) => el("details", {}, text("summary", asked), text("p", said));
    const copied = (code) => {
      const label = navigator.clipboard && button("Copy", async () => {
        await navigator.clipboard.writeText(code);
        label.textContent = "Copied";
      });
      return el("div", { class: "code" }, label ?? null, el("pre", { tabindex: 0 }, el("code", {}, code)));
    };
    return {
      question: "Can you answer these three before you open them?",
      stage: [
        answer("What does such a model estimate?", `<i>W</i>, the rule of the sequence that it is just reading, from the tokens before: anew for every
          sequence. Then it applies the estimate to the newest token. Nothing of it is stored in its weights.`),
        answer("Which two keys does it use?", `<i>s<sub>T</sub></i> and <i>s</i><sub><i>T</i>−1</sub>, the two newest tokens. The heads read 2 cos θ off them, the
          positional weights supply the −1: <i>s</i><sub><i>T</i>+1</sub> = 2 cos θ <i>s<sub>T</sub></i> − <i>s</i><sub><i>T</i>−1</sub>. (Models of the harder game use all pairs instead, as gradient descent does.)`),
        answer("What happens when one is cut?", `Without <i>s</i><sub><i>T</i>−1</sub> the error jumps from 0 to ${shown(cut_previous)}, as bad as saying nothing; without <i>s<sub>T</sub></i> to
          ${shown(cut_last)}. Theory says both beforehand, to the digit.`),
        text("h3", "Go on in this explorer"),
        el("div", { class: "buttons" }, ...WAYS_ON.map(([page, name]) => button(name, () => place.open(page)))),
        text("h3", "Papers"),
        el("ul", {}, ...PAPERS.map(([name, href]) => el("li", {}, text("a", name, { href, target: "_blank", rel: "noreferrer" })))),
      ],
      intro: [],
      side: [
        text("h3", "The same in Python"), copied(CODE),
        text("h3", "Train one of your own"), copied(TRAIN),
        text("p", "A model of yours, in a folder or as your own class, can stand in the place of ours: the README says how."),
      ],
    };
  },
};
