// How a value is written in the URL; what is not valid there is the default.

function wholeNumber(otherwise, low, high) {
  const inside = (n) => Math.min(high, Math.max(low, n));
  return { otherwise, parse: (text) => (/^-?\d{1,6}$/.test(text) ? inside(Number(text)) : otherwise), format: String };
}

function oneOf(otherwise, ...options) {
  return { otherwise, parse: (text) => (options.includes(text) ? text : otherwise), format: String };
}

/** Whole numbers of degrees, as many as the default has. */
function angleList(otherwise) {
  const pattern = new RegExp(`^-?\\d{1,3}(_-?\\d{1,3}){${otherwise.length - 1}}$`);
  return {
    otherwise,
    parse: (text) => (pattern.test(text) ? text.split("_").map((d) => degrees(Number(d) * DEGREE)) : otherwise),
    format: (angles) => angles.join("_"),
  };
}

/** One 0 or 1 for each. */
function switches(n) {
  const otherwise = "1".repeat(n);
  return { otherwise, parse: (text) => (new RegExp(`^[01]{${n}}$`).test(text) ? text : otherwise), format: String };
}
