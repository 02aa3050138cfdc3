// What a run's frames say of its components, out of base64.

/** Bytes of a text in base64. */
function bytesOf(text) {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}

/** Ranks: little-endian 16-bit numbers. */
export function ranksOf(text) {
  const bytes = bytesOf(text);
  return Array.from({ length: bytes.length / 2 }, (_, i) => bytes[2 * i] + 256 * bytes[2 * i + 1]);
}

/** Shares of a whole: a byte each, eight codes to a halving, 255 for nothing; as shares.py has them. */
export function sharesOf(text) {
  return Array.from(bytesOf(text), code => (code < 255 ? 2 ** (-code / 8) : 0));
}
