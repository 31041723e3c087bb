// How a value is written in the URL; what is not valid there is the default.

function wholeNumber(otherwise, low, high) {
  const parse = (text) => (/^-?\d{1,6}$/.test(text) ? Math.min(high, Math.max(low, Number(text))) : otherwise);
  return { otherwise, parse, format: String };
}

function oneOf(otherwise, ...options) {
  return { otherwise, parse: (text) => (options.includes(text) ? text : otherwise), format: String };
}
