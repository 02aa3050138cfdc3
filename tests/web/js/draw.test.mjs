import assert from "node:assert/strict";
import { test } from "node:test";

import { THEMES, draw, layout, neighbour } from "../../../web/lora2_draw.js";
import { scale } from "../../../web/lora2_scale.js";

const cell = value => ({ value, parts: [] });
const of = (value, ...ranks) => ({ value, parts: ranks.map(rank => ({ rank })) });
const GRID = {
  columns: ["self q", "self k", "cross q"],
  rows: [
    { name: "down 4 · 0", section: "down", cells: [cell(1), null, cell(4)] },
    { name: "down 4 · 1", section: "down", cells: [cell(8), cell(null), null] },
    { name: "up 0 · 0", section: "up", cells: [null, null, cell(16)] },
  ],
};

/** A canvas that remembers what was painted. */
function canvas() {
  const calls = [];
  const target = { calls, fillStyle: "", strokeStyle: "", font: "" };
  for (const name of ["clearRect", "fillText", "strokeRect"]) {
    target[name] = (...given) => calls.push([name, ...given]);
  }
  target.fillRect = (...given) => calls.push(["fillRect", target.fillStyle, ...given]);
  return target;
}

test("a cell is found where it was painted", () => {
  const places = layout(GRID, 400);
  GRID.rows.forEach((_, i) => GRID.columns.forEach((_, j) => {
    const { x, y, width, height } = places.box(i, j);
    assert.deepEqual(places.cellAt(x + width / 2, y + height / 2), { row: i, column: j });
  }));
  assert.equal(places.cellAt(5, 5), null);
  assert.equal(places.cellAt(399, places.height - 2), null);
});

test("sections stand apart, and nothing overlaps or leaves the picture", () => {
  const places = layout(GRID, 400);
  const [a, b, c] = [0, 1, 2].map(i => places.box(i, 2));
  assert.equal(b.y, a.y + a.height);
  assert.ok(c.y > b.y + b.height);
  assert.ok(c.x + c.width <= 400 && c.y + c.height < places.height);
});

test("seventy rows fit a screen", () => {
  const rows = Array.from({ length: 70 }, (_, i) => ({ ...GRID.rows[0], name: `down 4 · ${i}` }));
  assert.ok(layout({ ...GRID, rows }, 400, 760).height <= 800);
});

test("arrows step over holes and stop at the edge", () => {
  const from = { row: 0, column: 0 };
  assert.deepEqual(neighbour(GRID, from, "right"), { row: 0, column: 2 });
  assert.deepEqual(neighbour(GRID, { row: 0, column: 2 }, "down"), { row: 2, column: 2 });
  assert.deepEqual(neighbour(GRID, from, "up"), from);
  assert.deepEqual(neighbour(GRID, { row: 1, column: 0 }, "down"), { row: 1, column: 0 });
});

test("every value has its colour and its number, holes and unknowns another", () => {
  const ctx = canvas(), found = scale([1, 16], { log: true });
  draw(ctx, GRID, found, layout(GRID, 400), { theme: THEMES.dark, title: "rank" });
  const fills = ctx.calls.filter(([name]) => name === "fillRect").map(([, colour]) => colour);
  for (const value of [1, 4, 8, 16]) assert.ok(fills.includes(found.colour(value)));
  assert.equal(fills.filter(colour => colour === THEMES.dark.empty).length, 4);
  assert.equal(fills.filter(colour => colour === THEMES.dark.unknown).length, 1);
  const texts = ctx.calls.filter(([name]) => name === "fillText").map(([, text]) => text);
  for (const text of ["down 4 · 0", "self", "q", "8", "rank"]) assert.ok(texts.includes(text), text);
});

test("rank 0 is an outline with a zero, whatever the colours show, and the legend says so", () => {
  const grid = { ...GRID, rows: [{ ...GRID.rows[0], cells: [of(0, 0), of(null, 0, 0), of(2, 4, 0)] }] };
  const ctx = canvas(), found = scale([1, 16], { log: true });
  draw(ctx, grid, found, layout(grid, 400), { theme: THEMES.dark, title: "rank" });
  const painted = kind => ctx.calls.filter(([name]) => name === kind);
  assert.equal(painted("strokeRect").length, 2 + 1); // and one in the legend
  const texts = painted("fillText").map(([, text]) => text);
  assert.equal(texts.filter(text => text === "0").length, 2);
  assert.ok(texts.includes("rank 0") && texts.includes("2"));
  const fills = painted("fillRect").map(([, colour]) => colour);
  assert.ok(fills.includes(found.colour(2)) && !fills.includes(THEMES.dark.unknown));
  const without = canvas();
  draw(without, GRID, found, layout(GRID, 400), { theme: THEMES.dark, title: "rank" });
  assert.ok(!without.calls.some(([name, text]) => name === "strokeRect" || text === "rank 0"));
});

test("an outline fits into the lowest row", () => {
  const rows = Array.from({ length: 5000 }, (_, i) => ({ name: `x${i}`, section: "other", cells: [of(0, 0)] }));
  const ctx = canvas(), grid = { columns: ["other"], rows };
  draw(ctx, grid, scale([1]), layout(grid, 300), { theme: THEMES.light });
  for (const [, , , width, height] of ctx.calls.filter(([name]) => name === "strokeRect")) {
    assert.ok(width >= 0 && height >= 0);
  }
});

test("a picture is no higher than its room, if its rows can be", () => {
  const rows = Array.from({ length: 40 }, (_, i) => ({ ...GRID.rows[0], name: `down 4 · ${i}` }));
  for (const room of [600, 621, 655, 699]) assert.ok(layout({ ...GRID, rows }, 400, room).height <= room);
});

test("a long name of a stranger is cut", () => {
  const ctx = canvas();
  const rows = [{ ...GRID.rows[0], name: "x".repeat(5000) }];
  const grid = { ...GRID, rows };
  draw(ctx, grid, scale([1]), layout(grid, 400), { theme: THEMES.light });
  const longest = Math.max(...ctx.calls.filter(([n]) => n === "fillText").map(([, t]) => t.length));
  assert.ok(longest < 40);
});
