// A component and an adapter in words.

import { plain, short } from "./lora2_grid.js";

function percent(share, digits = 2) {
  return `${(100 * share).toFixed(digits)} %`;
}

/** What the details say of a component. */
export function described(part) {
  const rank = part.before && part.before !== part.rank ? `${part.rank} of ${part.before}` : part.rank;
  const more = [];
  const known = (value, text) => typeof value === "number" && more.push(text(value));
  known(part.alpha, value => `alpha ${short(value)}`);
  known(part.kind, value => plain(value));
  known(part.nu, value => `ν ${short(value)}`);
  known(part.bytes, value => `${short(value / 1e6)} MB`);
  known(part.retained, value => `${percent(value)} of the energy kept`);
  known(part.size, value => `‖ΔW‖ ${short(value)}`);
  known(part.rank90, value => `90 % of the energy in ${value}, 99 % in ${part.rank99}`);
  return `${plain(part.name)}\nrank ${rank}, layer ${part.shape.join(" × ")}\n${more.join(", ")}`;
}

/** One line of totals. */
export function summed({ totals, components, beside }) {
  const share = rank => percent(components.filter(part => part.rank === rank).length / totals.components, 0);
  const bits = Math.round((8 * totals.bytes) / totals.parameters);
  const parts = [
    `${totals.components} layers`,
    `${short(totals.bytes / 1e6)} MB${[8, 16, 32].includes(bits) ? ` in ${bits} bits` : ""}`,
    `mean rank ${short(totals.mean_rank)} (by parameters ${short(totals.weighted_mean_rank)})`,
    `${share(1)} at rank 1`,
    `${share(totals.max_rank)} at the highest, ${totals.max_rank}`,
  ];
  if (typeof totals.retained === "number") parts.push(`${percent(totals.retained)} of the energy kept`);
  if (beside) parts.push(`beside: ${Object.entries(beside).map(([what, n]) => `${n} ${what}`).join(", ")}`);
  return parts.join(" · ");
}
