import assert from "node:assert/strict";
import { test } from "node:test";

import { scale, share, ticks } from "../../../web/lora2_scale.js";

test("a logarithmic scale gives each doubling the same step", () => {
  const places = [1, 2, 4, 8].map(value => share(value, 1, 8, true));
  places.forEach((place, i) => assert.ok(Math.abs(place - i / 3) < 1e-12));
});

test("colours grow lighter with the value", () => {
  const found = scale([1, 128], { log: true });
  const light = [1, 4, 16, 64, 128].map(value =>
    found.colour(value).match(/\d+/g).map(Number).reduce((a, b) => a + b));
  assert.deepEqual(light, [...light].sort((a, b) => a - b));
  assert.equal(found.ink(1), "#ffffff");
  assert.notEqual(found.ink(128), "#ffffff");
});

test("a scale of one value, and of none, has colours", () => {
  for (const found of [scale([7], { log: true }), scale([]), scale([null, NaN, 0], { log: true })]) {
    assert.match(found.colour(7), /^rgb\(\d+, \d+, \d+\)$/);
    assert.ok(found.ticks().length >= 1);
  }
});

test("zero is at the low end of a logarithmic scale, and never beyond its colours", () => {
  for (const found of [scale([0, 1, 16], { log: true }), scale([0, 5], { log: true }), scale([0], { log: true })]) {
    assert.equal(found.share(0), 0);
    assert.equal(found.colour(0), "rgb(0, 34, 78)");
    assert.ok(found.ticks().every(tick => tick > 0));
  }
});

test("a scale with a span leaves out what is far below its end", () => {
  const found = scale([1e-9, 1, 4], { log: true, span: 1000 });
  assert.deepEqual([found.low, found.high, found.share(1e-9)], [0.004, 4, 0]);
  assert.deepEqual([scale([1, 4], { log: true, span: 1000 }).low], [1]);
});

test("a difference of zero is neutral, and both sides reach as far", () => {
  const found = scale([-3, 1], { signed: true });
  assert.deepEqual([found.low, found.high], [-3, 3]);
  assert.equal(found.colour(0), "rgb(236, 236, 234)");
  assert.deepEqual(found.ticks(), [-3, -1.5, 0, 1.5, 3]);
});

test("ticks are powers of two within the scale", () => {
  assert.deepEqual(ticks(1, 8, true), [1, 2, 4, 8]);
  const wide = ticks(1, 512, true);
  assert.ok(wide.length <= 6 && wide.every(tick => Number.isInteger(Math.log2(tick))));
});
