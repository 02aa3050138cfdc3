import assert from "node:assert/strict";
import { test } from "node:test";

import { plain, withSummary } from "../../../web/lora2_grid.js";
import { described, summed } from "../../../web/lora2_words.js";

const PART = { name: "lora_unet_a", rank: 4, shape: [320, 768], alpha: null, nu: null, bytes: 8704 };

test("a component in words: what is known, and nothing else", () => {
  assert.equal(described(PART), "lora_unet_a\nrank 4, layer 320 × 768\n0.0087 MB");
  const cut = { ...PART, before: 32, retained: 0.98765, nu: 0.25, alpha: 1 };
  assert.equal(described(cut),
    "lora_unet_a\nrank 4 of 32, layer 320 × 768\nalpha 1, ν 0.25, 0.0087 MB, 98.77 % of the energy kept");
});

test("a component of rank 0, one with its effect, and one of another kind", () => {
  const none = { ...PART, rank: 0, bytes: 0, effect: 0 };
  assert.equal(described(none), "lora_unet_a\nrank 0: left out of the file, layer 320 × 768");
  const report = { components: [], totals: { retained: 0.999, of: "effect" } };
  assert.equal(described({ ...none, before: 8, retained: 0 }, report),
    "lora_unet_a\nrank 0 of 8: left out of the file, layer 320 × 768\n0.00 % of the effect kept");
  assert.match(described({ ...PART, effect: 0.0123 }), /, effect 1\.2 % of the whole$/);
  assert.match(described({ ...PART, kind: "DoRA LoHa" }), /\nDoRA LoHa, 0\.0087 MB$/);
});

test("totals in words", () => {
  const components = [1, 1, 4, 16].map(rank => ({ ...PART, rank }));
  const totals = {
    components: 4, bytes: 2e6, parameters: 1e6, mean_rank: 5.5, weighted_mean_rank: 5, max_rank: 16,
  };
  assert.equal(summed({ totals, components }),
    "4 layers · 2 MB in 16 bits · mean rank 5.5 (by parameters 5) · 50 % at rank 1 · " +
    "25 % at the highest, 16");
  assert.match(summed({ totals: { ...totals, retained: 0.5 }, components }), /50\.00 % of the energy kept$/);
  assert.match(summed({ totals: { ...totals, retained: 0.5, of: "effect" }, components }), /50\.00 % of the effect kept$/);
  const some = [{ ...PART, rank: 0 }, ...components.slice(1)];
  assert.match(summed({ totals, components: some }), / · 25 % at rank 0 · 25 % at rank 1 · /);
  assert.match(summed({ totals, components, beside: { norms: 3, bias: 1 } }), / · beside: 3 norms, 1 bias$/);
});

test("a summary is told of each layer against the mean", () => {
  const report = { components: [{}, {}] };
  withSummary(report, { size: [3, 4], rank90: [1, 2], rank99: [2, 3] });
  const mean = Math.sqrt((9 + 16) / 2);
  assert.deepEqual(report.components.map(part => part.share), [3 / mean, 4 / mean]);
  assert.deepEqual(report.components.map(part => part.rank99), [2, 3]);
});

test("a summary leaves what is of rank 0 out of the mean", () => {
  const report = { components: [{}, { rank: 0 }, {}] };
  withSummary(report, { size: [3, null, 4], rank90: [1, null, 2], rank99: [2, null, 3] });
  const mean = Math.sqrt((9 + 16) / 2);
  assert.deepEqual(report.components.map(part => part.share), [3 / mean, null, 4 / mean]);
});

test("a stranger's text is short and in one line", () => {
  assert.equal(plain("a\nb\u202ec\u0000"), "a·b·c·");
  assert.equal(plain("<b>x</b>"), "<b>x</b>"); // shown as it is: never as HTML
  assert.ok(plain("x".repeat(1e6)).length <= 120);
});
