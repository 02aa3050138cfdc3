// Singular values of one component, and what a cut at each rank would keep.

/** Share of the energy Σσ² that the first k of sigma hold, for k = 1 … */
export function kept(sigma) {
  const whole = sigma.reduce((sum, value) => sum + value * value, 0);
  let sum = 0;
  return sigma.map(value => (whole > 0 ? (sum += value * value) / whole : 1));
}

/** Paints σ as bars and the share kept as a line; marks where 90 % and 99 % are reached. */
export function drawSpectrum(canvas, { sigma, rank90, rank99 }, theme) {
  const width = 190, height = 70, left = 4, bottom = 14, ratio = Math.max(2, globalThis.devicePixelRatio || 1);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  const step = (width - 2 * left) / sigma.length, room = height - bottom - 2;
  ctx.fillStyle = "rgb(112, 150, 190)";
  sigma.forEach((value, i) => {
    const size = sigma[0] > 0 ? (value / sigma[0]) * room : 0;
    ctx.fillRect(left + i * step, 2 + room - size, Math.max(1, step - 1), size);
  });
  ctx.strokeStyle = theme.ink;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  kept(sigma).forEach((share, i) => {
    const point = [left + (i + 0.5) * step, 2 + room * (1 - share)];
    if (i) ctx.lineTo(...point);
    else ctx.moveTo(...point);
  });
  ctx.stroke();
  ctx.font = "9px sans-serif";
  ctx.fillStyle = theme.ink;
  ctx.textBaseline = "alphabetic";
  ctx.textAlign = "left";
  ctx.fillText(`σ₁ ${sigma[0].toPrecision(3)} · 90 %: ${rank90} · 99 %: ${rank99} of ${sigma.length}`, left, height - 3);
}
