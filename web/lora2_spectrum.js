// Singular values of one component, and what a cut at each rank would keep.

import { prepared } from "./lora2_draw.js";
import { short } from "./lora2_grid.js";

const WIDTH = 200, HEIGHT = 58, EDGE = 3;
const KEPT = "rgb(112, 150, 190)", CUT = "rgba(128, 128, 140, 0.45)";

/** Share of the energy Σσ² that the first k of sigma hold, for k = 1 … */
export function kept(sigma) {
  const whole = sigma.reduce((sum, value) => sum + value * value, 0);
  let sum = 0;
  return sigma.map(value => (whole > 0 ? Math.min(1, (sum += value * value) / whole) : 1));
}

/** What a cut at rank k means, in words; bytes: of the whole component. */
export function described(sigma, k, bytes) {
  const share = (100 * kept(sigma)[k - 1]).toFixed(1);
  return `rank ${k} of ${sigma.length} keeps ${share} % of the energy, ` +
    `${short((bytes * k) / sigma.length / 1e6)} MB`;
}

/** Paints σ as bars, those that a cut at rank k keeps in colour, and the share kept as a line. */
export function drawSpectrum(ctx, { width, height }, sigma, k, theme) {
  ctx.clearRect(0, 0, width, height);
  const step = (width - 2 * EDGE) / sigma.length, room = height - 2 * EDGE;
  sigma.forEach((value, i) => {
    const size = sigma[0] > 0 ? (value / sigma[0]) * room : 0;
    ctx.fillStyle = i < k ? KEPT : CUT;
    ctx.fillRect(EDGE + i * step, EDGE + room - size, Math.max(0.5, step - Math.min(1, step / 4)), size);
  });
  ctx.strokeStyle = theme.ink;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  kept(sigma).forEach((share, i) => {
    const point = [EDGE + (i + 0.5) * step, EDGE + room * (1 - share)];
    if (i) ctx.lineTo(...point);
    else ctx.moveTo(...point);
  });
  ctx.stroke();
}

/**
 * { element, show(spectrum, bytes), hide() }. The rank to cut at follows the pointer and the arrow
 * keys, and starts where 90 % of the energy are kept. theme(): one of THEMES.
 */
export function createSpectrum(document, { theme }) {
  const canvas = Object.assign(document.createElement("canvas"), {
    tabIndex: 0, role: "slider", ariaLabel: "rank to cut at", ariaValueMin: "1",
  });
  const caption = document.createElement("div");
  const element = Object.assign(document.createElement("div"), { className: "spectrum", hidden: true });
  element.append(canvas, caption);
  let sigma = [], bytes = 0, k = 1;

  function paint() {
    drawSpectrum(prepared(canvas, WIDTH, HEIGHT), { width: WIDTH, height: HEIGHT }, sigma, k, theme());
    caption.textContent = described(sigma, k, bytes);
    canvas.ariaValueNow = String(k);
    canvas.ariaValueMax = String(sigma.length);
    canvas.ariaValueText = caption.textContent;
  }

  function choose(rank) {
    k = Math.min(sigma.length, Math.max(1, rank));
    paint();
  }

  canvas.addEventListener("pointermove", event => {
    const box = canvas.getBoundingClientRect();
    choose(Math.ceil(((event.clientX - box.left) / box.width) * sigma.length));
  });
  canvas.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!step) return;
    choose(k + step);
    event.preventDefault();
    event.stopPropagation();
  });
  return {
    element,
    show(spectrum, size) {
      ({ sigma } = spectrum);
      bytes = size;
      element.hidden = false;
      choose(spectrum.rank90);
    },
    hide: () => (element.hidden = true),
  };
}
