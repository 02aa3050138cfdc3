import assert from "node:assert/strict";
import { test } from "node:test";

import { csv, difference, grid, leftOut, measure, offered, short, values } from "../../../web/lora2_grid.js";

const part = (row, column, rank, more = {}) => ({
  name: `${row}/${column}`, section: "down", block: row.split(" · ")[0], row, column, rank,
  shape: [8, 8], alpha: 1, nu: null, bytes: rank * 1e6, ...more,
});

function report(parts) {
  const rows = [...new Set(parts.map(p => p.row))].map(row => ({
    row, section: "down", block: row.split(" · ")[0],
  }));
  return { components: parts, rows, columns: [...new Set(parts.map(p => p.column))] };
}

const PARTS = [
  part("down 4 · 0", "self q", 2),
  part("down 4 · 0", "self k", 4, { nu: 0.5 }),
  part("down 4 · 1", "self q", 8),
];

test("a cell holds its component, and a hole is null", () => {
  const found = grid(report(PARTS), "rank");
  assert.deepEqual(found.columns, ["self q", "self k"]);
  assert.deepEqual(found.rows.map(row => row.name), ["down 4 · 0", "down 4 · 1"]);
  assert.equal(found.rows[0].cells[1].value, 4);
  assert.equal(found.rows[0].cells[1].parts[0].name, "down 4 · 0/self k");
  assert.equal(found.rows[1].cells[1], null);
  assert.deepEqual(values(found), [2, 4, 8]);
});

test("a block has the mean of its ranks and the sum of its megabytes", () => {
  const [ranks] = grid(report(PARTS), "rank", { blocks: true }).rows;
  assert.equal(ranks.name, "down 4");
  assert.deepEqual(ranks.cells.map(cell => cell.value), [5, 4]);
  const [bytes] = grid(report(PARTS), "bytes", { blocks: true }).rows;
  assert.deepEqual(bytes.cells.map(cell => cell.value), [10, 4]);
});

test("what is not known is null, and not zero", () => {
  const found = grid(report(PARTS), "nu");
  assert.deepEqual(found.rows[0].cells.map(cell => cell.value), [null, 0.5]);
  assert.deepEqual(values(found), [0.5]);
});

test("a difference is taken where both know a value", () => {
  const other = report([part("down 4 · 0", "self q", 5), part("up 0 · 0", "self q", 1)]);
  const found = difference(grid(report(PARTS), "rank"), grid(other, "rank"));
  assert.deepEqual(found.rows.map(row => row.name), ["down 4 · 0", "down 4 · 1", "up 0 · 0"]);
  assert.equal(found.rows[0].cells[0].value, 3);
  assert.equal(found.rows[1].cells[0].value, null);
  assert.equal(found.rows[2].cells[1], null);
});

test("numbers are short", () => {
  assert.deepEqual([null, NaN, 3, 12.345, 0.01234, 1234.5, 1e-9, 0.00012, 0.000034].map(short),
    ["–", "–", "3", "12.3", "0.012", "1235", "1.0e-9", "0.00012", "3.4e-5"]);
});

test("effects are per cent, add up in a block, and are offered where they are known", () => {
  const parts = [
    part("down 4 · 0", "self q", 2, { effect: 0.25 }),
    part("down 4 · 0", "self k", 0, { effect: 0 }),
    part("down 4 · 1", "self q", 8, { effect: 0.75 }),
  ];
  assert.deepEqual(values(grid(report(parts), "effect")), [25, 0, 75]);
  const [block] = grid(report(parts), "effect", { blocks: true }).rows;
  assert.deepEqual(block.cells.map(cell => cell.value), [100, 0]);
  const names = reports => offered(reports).map(([name]) => name);
  assert.ok(names([report(PARTS), report(parts)]).includes("effect"));
  for (const reports of [[report(PARTS)], []]) {
    assert.ok(!names(reports).includes("effect"));
    for (const always of ["rank", "bytes", "nu", "retained", "share"]) assert.ok(names(reports).includes(always));
  }
});

test("what a cut kept is called by what it is of", () => {
  const cut = of => ({ ...report(PARTS), totals: { retained: 0.9, ...(of && { of }) } });
  assert.equal(measure([]), "energy");
  assert.equal(measure([cut(), cut("energy")]), "energy"); // an older report does not say
  assert.equal(measure([cut("effect"), { ...report(PARTS), totals: {} }]), "effect");
  assert.equal(measure([cut("effect"), cut("energy")]), "share");
  assert.deepEqual(offered([cut("effect")]).find(([name]) => name === "retained"), ["retained", "effect kept"]);
});

test("a cell is left out if all of it is of rank 0", () => {
  const parts = [
    part("down 4 · 0", "self q", 0), part("down 4 · 0", "self k", 0), part("down 4 · 1", "self q", 3),
  ];
  const outs = found => found.rows.map(row => row.cells.map(leftOut));
  assert.deepEqual(outs(grid(report(parts), "nu")), [[true, true], [false, false]]);
  assert.deepEqual(outs(grid(report(parts), "rank", { blocks: true })), [[false, true]]);
  const found = difference(grid(report(PARTS), "rank"), grid(report(parts), "rank"));
  assert.deepEqual(outs(found), [[false, false], [false, false]]);
  assert.deepEqual(values(found), [-2, -4, -5]);
});

test("a table runs nothing of a stranger's name", () => {
  const hostile = report([part("down 4 · 0", "self q", 2, { name: '=HYPERLINK("http://x","y")' })]);
  const [, line] = csv(hostile).split("\r\n");
  assert.ok(line.startsWith(`"'=HYPERLINK(""http://x"",""y"")"`));
  assert.equal(csv(report(PARTS)).trim().split("\r\n").length, 4);
  const [head, first] = csv(report([part("down 4 · 0", "self q", 2, { effect: 0.125 })])).split("\r\n");
  assert.equal(first.split(",")[head.split(",").indexOf("effect")], "0.125");
});
