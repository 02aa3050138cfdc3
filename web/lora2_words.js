// A component and an adapter in words.

import { measure, plain, short } from "./lora2_grid.js";

function percent(share, digits = 2) {
  return `${(100 * share).toFixed(digits)} %`;
}

/** What the details say of a component of a report. */
export function described(part, report = {}) {
  const cut = part.before && part.before !== part.rank;
  const rank = (cut ? `${part.rank} of ${part.before}` : String(part.rank)) +
    (part.rank === 0 ? ": left out of the file" : "");
  const more = [];
  const known = (value, text) => typeof value === "number" && more.push(text(value));
  known(part.alpha, value => `alpha ${short(value)}`);
  if (part.kind) more.push(plain(part.kind));
  known(part.nu, value => `ν ${short(value)}`);
  if (part.rank !== 0) {
    known(part.bytes, value => `${short(value / 1e6)} MB`);
    known(part.effect, value => `effect ${short(100 * value)} % of the whole`);
  }
  known(part.retained, value => `${percent(value)} of the ${measure([report])} kept`);
  known(part.size, value => `‖ΔW‖ ${short(value)}`);
  known(part.rank90, value => `90 % of the energy in ${value}, 99 % in ${part.rank99}`);
  const lines = [plain(part.name), `rank ${rank}, layer ${part.shape.join(" × ")}`, more.join(", ")];
  return lines.filter(Boolean).join("\n");
}

/** One line of totals. */
export function summed(report) {
  const { totals, components, beside } = report;
  const count = rank => components.filter(part => part.rank === rank).length;
  const share = rank => percent(count(rank) / totals.components, 0);
  const bits = Math.round((8 * totals.bytes) / totals.parameters);
  const parts = [
    `${totals.components} layers`,
    `${short(totals.bytes / 1e6)} MB${[8, 16, 32].includes(bits) ? ` in ${bits} bits` : ""}`,
    `mean rank ${short(totals.mean_rank)} (by parameters ${short(totals.weighted_mean_rank)})`,
    ...(count(0) ? [`${share(0)} at rank 0`] : []),
    `${share(1)} at rank 1`,
    `${share(totals.max_rank)} at the highest, ${totals.max_rank}`,
  ];
  if (typeof totals.retained === "number") {
    parts.push(`${percent(totals.retained)} of the ${measure([report])} kept`);
  }
  if (beside) parts.push(`beside: ${Object.entries(beside).map(([what, n]) => `${n} ${what}`).join(", ")}`);
  return parts.join(" · ");
}
