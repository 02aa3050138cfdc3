import assert from "node:assert/strict";
import { test } from "node:test";

import { ranksOf, sharesOf } from "../../../web/lora2_coded.js";
import { clock, drawCurve, reportAt, smoothed } from "../../../web/lora2_run.js";
import { THEMES } from "../../../web/lora2_draw.js";
import { grid } from "../../../web/lora2_grid.js";

const BEGIN = {
  steps: 10,
  rows: [{ row: "down 4 · 0", section: "down", block: "down 4" }],
  columns: ["self q", "cross k"],
  components: [
    { name: "a", shape: [640, 640], section: "down", block: "down 4", row: "down 4 · 0", column: "self q" },
    { name: "b", shape: [640, 2048], section: "down", block: "down 4", row: "down 4 · 0", column: "cross k" },
  ],
};
const RANKS = btoa(String.fromCharCode(7, 0, 44, 1)); // 7 and 256 + 44

test("ranks are little-endian and of 16 bits", () => assert.deepEqual(ranksOf(RANKS), [7, 300]));

test("a frame is a report that the grid takes", () => {
  const found = reportAt(BEGIN, { ranks: RANKS });
  assert.deepEqual(grid(found, "rank").rows[0].cells.map(cell => cell.value), [7, 300]);
  assert.deepEqual(found.components.map(part => part.bytes), [2 * 7 * 1280, 2 * 300 * 2688]);
});

test("shares are eight codes to a halving, and the last code is nothing", () => {
  const found = sharesOf(btoa(String.fromCharCode(0, 8, 16, 80, 255)));
  assert.deepEqual(found, [1, 0.5, 0.25, 2 ** -10, 0]);
});

test("a frame has effects where it says so", () => {
  const effects = btoa(String.fromCharCode(8, 255));
  const cells = frame => grid(reportAt(BEGIN, frame), "effect").rows[0].cells.map(cell => cell.value);
  assert.deepEqual(cells({ ranks: RANKS, effects }), [50, 0]);
  assert.deepEqual(cells({ ranks: RANKS }), [null, null]);
});

test("a smoothed curve starts at its first value and stays within the values", () => {
  const found = smoothed([4, 1, 1, 1, 1]);
  assert.ok(Math.abs(found[0] - 4) < 1e-12);
  assert.ok(found.every((value, i) => value <= 4 && value >= 1 && (!i || value < found[i - 1])));
  assert.deepEqual(smoothed([]), []);
});

test("a clock", () => assert.deepEqual([0, 65, 3600, -3].map(clock), ["0:00", "1:05", "60:00", "0:00"]));

test("a curve lies within its box, also if it is flat or has holes", () => {
  for (const values of [[1, 1, 1], [3, NaN, 1], [2], []]) {
    const points = [];
    const ctx = {
      clearRect() {}, fillText() {}, beginPath() {}, stroke() {}, fillRect() {},
      moveTo: (...point) => points.push(point), lineTo: (...point) => points.push(point),
    };
    const steps = values.map((value, i) => [i + 1, value]);
    drawCurve(ctx, { width: 100, height: 50 }, steps, {
      steps: 10, label: "loss", colour: "red", theme: THEMES.dark, at: 2,
    });
    for (const [x, y] of points) assert.ok(x >= 0 && x <= 100 && y >= 15 && y <= 50, `${x} ${y}`);
  }
});
