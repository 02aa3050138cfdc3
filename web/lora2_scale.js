// A colour scale: numbers to colours that are even in lightness and told apart by every eye.

// Cividis, dark to light.
const PALETTE = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 92, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
];
// For differences: blue where the second has less, orange where it has more.
const DIVERGING = [
  [33, 84, 148], [96, 143, 196], [168, 196, 222], [236, 236, 234], [238, 196, 150], [222, 138, 66],
  [176, 84, 16],
];

/** Place of value between low and high, 0 to 1; on a logarithmic scale where log is set. */
export function share(value, low, high, log) {
  if (!(high > low)) return value < low ? 0 : 1;
  const at = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return Math.min(1, Math.max(0, at));
}

function mixed(palette, at) {
  const place = at * (palette.length - 1);
  const first = Math.min(Math.floor(place), palette.length - 2);
  return palette[first].map((part, i) =>
    Math.round(part + (palette[first + 1][i] - part) * (place - first)));
}

function brightness([red, green, blue]) {
  return 0.3 * red + 0.59 * green + 0.11 * blue;
}

function css(colour) {
  return `rgb(${colour.join(", ")})`;
}

/** Numbers that a legend shows: powers of two on a logarithmic scale, else even steps. */
export function ticks(low, high, log, count = 6) {
  if (!(high > low)) return [high];
  if (!log) {
    return Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
  }
  const powers = Math.log2(high / low);
  const step = Math.max(1, Math.ceil(powers / (count - 1)));
  const found = [];
  for (let i = 0; i <= powers + 1e-9; i += step) found.push(low * 2 ** i);
  return found;
}

/**
 * The scale of a set of numbers. log: logarithmic; span: then of `high` down to no less than
 * high / span; signed: around zero, for differences.
 * { low, high, colour(value), ink(value), share(value), at(share), ticks() }; colours are CSS, a
 * share is a place on the scale from 0 to 1.
 */
export function scale(values, { log = false, span = Infinity, signed = false } = {}) {
  const known = values.filter(value => Number.isFinite(value) && (signed || !log || value > 0));
  let low = known.length ? known.reduce((a, b) => Math.min(a, b)) : 1;
  let high = known.length ? known.reduce((a, b) => Math.max(a, b)) : 1;
  if (signed) {
    high = Math.max(Math.abs(low), Math.abs(high)) || 1;
    low = -high;
  }
  const even = !log || signed;
  if (!even) low = Math.max(low, high / span);
  const palette = signed ? DIVERGING : PALETTE;
  const place = value => share(value, low, high, !even);
  const exact = value => mixed(palette, place(value));
  return {
    low,
    high,
    colour: value => css(exact(value)),
    ink: value => (brightness(exact(value)) < 128 ? "#ffffff" : "#1c1c22"),
    share: place,
    at: found => (even ? low + (high - low) * found : low * (high / low) ** found),
    ticks: () => ticks(low, high, !even, signed ? 5 : 6), // zero is one of five
  };
}
