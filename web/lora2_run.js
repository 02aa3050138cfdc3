// A training run as an element: heatmap, curves, state, and a scrubber over its frames.
// It knows nothing of the host.

import { grid, short } from "./lora2_grid.js";
import { THEMES, draw, layout } from "./lora2_draw.js";
import { scale } from "./lora2_scale.js";

const MOST = 400; // frames; then every other one goes
const SMOOTHING = 0.9; // of the loss, from frame to frame

/** Ranks from base64 of little-endian 16-bit numbers. */
export function ranksOf(text) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return Array.from({ length: bytes.length / 2 }, (_, i) => bytes[2 * i] + 256 * bytes[2 * i + 1]);
}

/** Exponential mean of the values so far, without the bias of its beginning. */
export function smoothed(values, share = SMOOTHING) {
  let mean = 0, weight = 0;
  return values.map(value => {
    mean = share * mean + (1 - share) * value;
    weight = share * weight + (1 - share);
    return mean / weight;
  });
}

/** 1:05 for 65 seconds. */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** A report of a run's ranks at a frame, as the grid takes it. */
export function reportAt(begin, frame) {
  const ranks = ranksOf(frame.ranks);
  const components = begin.components.map((part, i) => ({
    ...part,
    rank: ranks[i],
    bytes: 2 * ranks[i] * (part.shape[0] + part.shape.slice(1).reduce((a, b) => a * b, 1)),
  }));
  return { components, rows: begin.rows, columns: begin.columns };
}

/** Paints a curve over the steps; marks `at`. */
export function drawCurve(ctx, { width, height }, points, { steps, label, colour, theme, at }) {
  ctx.clearRect(0, 0, width, height);
  const known = points.filter(([, value]) => Number.isFinite(value));
  ctx.font = "10px sans-serif";
  ctx.textBaseline = "top";
  ctx.textAlign = "left";
  ctx.fillStyle = theme.ink;
  const last = known.at(-1);
  ctx.fillText(`${label} ${last ? short(last[1]) : "–"}`, 2, 1);
  if (known.length < 2) return;
  const all = known.map(([, value]) => value);
  const low = Math.min(...all), high = Math.max(...all);
  const x = step => 2 + ((width - 4) * step) / steps;
  const y = value => height - 3 - ((height - 18) * (value - low)) / (high - low || 1);
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  known.forEach(([step, value], i) => (i ? ctx.lineTo(x(step), y(value)) : ctx.moveTo(x(step), y(value))));
  ctx.stroke();
  if (at !== null) {
    ctx.fillStyle = theme.faint;
    ctx.fillRect(x(at), 16, 1, height - 16);
  }
}

/** { element, take(message), started(), resize() }; messages: as nodes/live.py sends them. */
export function createLive(document, { theme }) {
  const made = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
  let begin = null, frames = [], chosen = null;
  const state = made("div");
  const picture = made("canvas", { ariaLabel: "ranks by layer" });
  const curves = ["loss", "mean rank", "MB"].map(label => ({ label, canvas: made("canvas") }));
  const row = made("div");
  row.style.cssText = "display: flex; gap: 6px; flex: none;";
  row.append(...curves.map(({ canvas }) => canvas));
  const scrubber = made("input", { type: "range", min: 0, value: 0, title: "Step through the run" });
  scrubber.style.cssText = "width: 100%; margin: 0; flex: none;";
  const box = made("div");
  box.style.cssText = "flex: 1 1 auto; min-height: 0; overflow: hidden;";
  box.append(picture);
  const element = made("div");
  element.style.cssText = "display: flex; flex-direction: column; gap: 4px; width: 100%; " +
    "height: 100%; overflow: hidden; font: 11px sans-serif; color: var(--input-text, #ddd);";
  element.append(state, row, box, scrubber);
  scrubber.addEventListener("input", () => {
    chosen = Number(scrubber.value) === frames.length - 1 ? null : Number(scrubber.value);
    paint();
  });

  function canvasOf(canvas, width, height) {
    const ratio = Math.max(2, globalThis.devicePixelRatio || 1);
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    return ctx;
  }

  function paint() {
    if (!frames.length || !element.clientWidth) return;
    const frame = frames[chosen ?? frames.length - 1], colours = THEMES[theme()];
    const left = frame.step < begin.steps ? `, ${clock(frame.seconds_left)} left` : ", done";
    state.textContent = `step ${frame.step}/${begin.steps}, loss ${short(frame.loss)}, ` +
      `mean rank ${short(frame.mean_rank)}, ${short(frame.megabytes)} MB in fp16${left}`;
    const found = grid(reportAt(begin, frame), "rank");
    const places = layout(found, element.clientWidth, box.clientHeight);
    const highest = Math.max(...frames.map(one => one.highest));
    const all = scale([1, highest], { log: true });
    draw(canvasOf(picture, places.width, places.height), found, all, places, {
      theme: colours, title: "rank",
    });
    const width = Math.floor((element.clientWidth - 12) / 3), height = 54;
    const losses = smoothed(frames.map(one => one.loss));
    const series = [losses, frames.map(one => one.mean_rank), frames.map(one => one.megabytes)];
    curves.forEach(({ label, canvas }, i) =>
      drawCurve(canvasOf(canvas, width, height), { width, height },
        frames.map((one, at) => [one.step, series[i][at]]), {
          steps: begin.steps, label, theme: colours, at: chosen === null ? null : frame.step,
          colour: ["rgb(222, 138, 66)", "rgb(96, 150, 210)", "rgb(150, 170, 90)"][i],
        }));
    scrubber.max = String(frames.length - 1);
    if (chosen === null) scrubber.value = scrubber.max;
  }

  return {
    element,
    started: () => begin !== null,
    take(message) {
      if (message.kind === "begin") {
        begin = message;
        frames = [];
        chosen = null;
        return;
      }
      if (!begin || (frames.length && message.step <= frames.at(-1).step)) return;
      frames.push({ ...message, highest: Math.max(...ranksOf(message.ranks)) });
      if (frames.length > MOST) {
        frames = frames.filter((_, i) => i % 2 === 0 || i === frames.length - 1);
        chosen = null;
      }
      paint();
    },
    resize: paint,
  };
}
