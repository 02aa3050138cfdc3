import assert from "node:assert/strict";
import { test } from "node:test";

import { described, drawSpectrum, kept } from "../../../web/lora2_spectrum.js";

test("the share kept grows to one", () => {
  assert.deepEqual(kept([3, 2, 1]).map(share => share.toFixed(4)), ["0.6429", "0.9286", "1.0000"]);
  assert.deepEqual(kept([0, 0]), [1, 1]); // nothing is lost of nothing
});

test("a cut in words", () => {
  assert.equal(described([3, 2, 1], 2, 3e6), "rank 2 of 3 keeps 92.9 % of the energy, 2 MB");
});

test("bars within a cut differ in colour from those without, and all stay in the box", () => {
  const bars = [];
  const ctx = {
    clearRect() {}, beginPath() {}, moveTo() {}, lineTo() {}, stroke() {}, fillStyle: "",
    fillRect(...box) { bars.push([this.fillStyle, ...box]); },
  };
  drawSpectrum(ctx, { width: 90, height: 40 }, [3, 2, 1], 2, { ink: "black" });
  assert.equal(bars[0][0], bars[1][0]);
  assert.notEqual(bars[1][0], bars[2][0]);
  for (const [, x, y, width, height] of bars) {
    assert.ok(x >= 0 && x + width <= 90 && y >= 0 && y + height <= 40);
  }
  assert.ok(bars[0][4] > bars[1][4] && bars[1][4] > bars[2][4]);
});
