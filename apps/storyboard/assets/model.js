// The arithmetic of the model of diagonal heads; plain functions, which tests compare with torch.
// A complex vector is {re, im}, two arrays of numbers.

/** s_1..s_length in the eigenbasis: s_t = exp(i angle (t - 1)) times `first`, ones if left out. */
function tokensOf(angles, length, first) {
  return Array.from({ length }, (_, t) => ({
    re: angles.map((a, j) => Math.cos(a * t + (first ? first[j] : 0))),
    im: angles.map((a, j) => Math.sin(a * t + (first ? first[j] : 0))),
  }));
}

/** The angles of all coordinates where each of these has a mirror image. */
function withMirrors(angles) {
  return angles.flatMap((a) => [a, -a]);
}

/** What each head reads of each key: <s_{T-1} | a_h * s_t>, {re, im} of [head][key]. */
function scoresOf(model, tokens) {
  const query = tokens[tokens.length - 2];
  const part = (key, a) => {
    let re = 0, im = 0;
    for (let i = 0; i < a.length; i++) {
      re += a[i] * (query.re[i] * key.re[i] + query.im[i] * key.im[i]);
      im += a[i] * (query.re[i] * key.im[i] - query.im[i] * key.re[i]);
    }
    return { re, im };
  };
  return model.A.map((a) => tokens.map((key) => part(key, a)));
}

/** The weight p_t of each key at T = n. */
function positionsOf(model, n) {
  return model.P[n - 2].slice(0, n);
}

/** The attention pattern: scores times positional weights, [head][key]. */
function patternOf(model, tokens) {
  const p = positionsOf(model, tokens.length);
  return scoresOf(model, tokens).map((head) => head.map((s, t) => ({ re: p[t] * s.re, im: p[t] * s.im })));
}

/** What each key adds to the prediction: sum_h pattern_h(t) b_h * s_t. */
function partsOf(model, pattern, tokens) {
  return tokens.map((s, t) => {
    const re = s.re.map(() => 0), im = s.im.map(() => 0);
    pattern.forEach((head, h) => {
      const w = head[t];
      for (let j = 0; j < re.length; j++) {
        const b = model.B[h][j];
        re[j] += b * (w.re * s.re[j] - w.im * s.im[j]);
        im[j] += b * (w.re * s.im[j] + w.im * s.re[j]);
      }
    });
    return { re, im };
  });
}

function sumOf(vectors) {
  const sum = (name) => vectors[0][name].map((_, j) => vectors.reduce((total, v) => total + v[name][j], 0));
  return { re: sum("re"), im: sum("im") };
}

/** The prediction of the token after the last one. */
function predict(model, tokens) {
  return sumOf(partsOf(model, patternOf(model, tokens), tokens));
}

/** |x - y|^2 over |y|^2. */
function relativeError(x, y) {
  let error = 0, size = 0;
  for (let j = 0; j < y.re.length; j++) {
    error += (x.re[j] - y.re[j]) ** 2 + (x.im[j] - y.im[j]) ** 2;
    size += y.re[j] ** 2 + y.im[j] ** 2;
  }
  return error / size;
}

/** sum over the chosen heads of b_h a_h^T. */
function circuitOf(model, chosen) {
  return model.B[0].map((_, j) => model.A[0].map((_, i) =>
    model.A.reduce((total, a, h) => total + (chosen[h] ? model.B[h][j] * a[i] : 0), 0)));
}

/** M = A B^T. */
function overlapsOf(model) {
  return model.A.map((a) => model.B.map((b) => a.reduce((total, x, i) => total + x * b[i], 0)));
}

/** Uniform numbers in (0, 1) from a seed (mulberry32): the same link shows the same sequence. */
function uniforms(seed, n) {
  let state = Math.imul(seed, 0x9e3779b9) >>> 0;
  return Array.from({ length: n }, () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  });
}
