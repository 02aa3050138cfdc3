// A training run as an element: heatmap, curves, state, previews, and a scrubber over its frames.
// It knows nothing of the host.

import { ranksOf, sharesOf } from "./lora2_coded.js";
import { METRICS, grid, short, values } from "./lora2_grid.js";
import { THEMES, draw, layout, prepared } from "./lora2_draw.js";
import { scale } from "./lora2_scale.js";
import { createStrip } from "./lora2_strip.js";

const MOST = 400; // frames; then every other one goes
const SMOOTHING = 0.9; // of the loss, from frame to frame
const GAP = 6, CURVE = 54; // pixels between the curves, and of their height
const COLOURS = ["rgb(222, 138, 66)", "rgb(96, 150, 210)", "rgb(150, 170, 90)"];

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

/** A report of a run at a frame, as the grid takes it; without effects where none are known. */
export function reportAt(begin, frame) {
  const ranks = ranksOf(frame.ranks), effects = frame.effects ? sharesOf(frame.effects) : [];
  const components = begin.components.map((part, i) => ({
    ...part,
    rank: ranks[i],
    effect: effects[i] ?? null,
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
  ctx.fillText(`${label} ${last ? Number(last[1].toPrecision(3)) : "–"}`, 2, 1);
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

/**
 * { element, take(message), restore(state), started(), pictured(), resize() }; the element is not
 * displayed before a run is. Messages and state: as nodes/live.py has them. theme(): "dark" or
 * "light". pictureAt(run, step, index): where a preview is.
 */
export function createLive(document, { theme, pictureAt }) {
  const made = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
  let begin = null, frames = [], ended = false;
  let chosen = null; // index of a frame, or null for the last one
  let previews = [];
  const state = made("div");
  state.style.cssText = "flex: 1 1 0; min-width: 0;";
  const metric = made("select", { title: "What the colours show", ariaLabel: "What the colours show" });
  metric.append(...["rank", "effect"].map(value => made("option", { value, textContent: METRICS[value].label })));
  metric.style.cssText = "flex: none; font: inherit; color: inherit; border-radius: 4px; " +
    "background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #555);";
  const top = made("div");
  top.style.cssText = `display: flex; gap: ${GAP}px; align-items: start; flex: none;`;
  top.append(state, metric);
  const picture = made("canvas", { role: "img" });
  const curves = ["loss", "mean rank", "MB"].map(label => ({ label, canvas: made("canvas") }));
  const row = made("div");
  row.style.cssText = `display: flex; gap: ${GAP}px; flex: none;`;
  row.append(...curves.map(({ canvas }) => canvas));
  const scrubber = made("input", {
    type: "range", min: 0, value: 0, title: "Step through the run", ariaLabel: "Step through the run",
  });
  scrubber.style.cssText = "width: 100%; margin: 0; flex: none;";
  const box = made("div");
  box.style.cssText = "flex: 1 1 auto; min-height: 0; overflow: hidden;";
  box.append(picture);
  const element = made("div", { className: "lora2-live" });
  element.style.cssText = "display: none; flex-direction: column; gap: 4px; width: 100%; " +
    "height: 100%; overflow: hidden; font: 11px sans-serif; color: var(--input-text, #ddd);";
  const trouble = made("div", { role: "status" });
  trouble.style.cssText = "display: none; flex: none; max-height: 28px; overflow: auto; " +
    "overflow-wrap: anywhere; user-select: text; color: rgb(222, 138, 66);";
  const strip = createStrip(document, {
    pictureAt: (step, index) => pictureAt(begin.run, step, index),
    onChoice: step => choose(Math.max(0, frames.findLastIndex(one => one.step <= step))),
  });
  element.append(top, trouble, row, box, strip.element, scrubber);
  scrubber.addEventListener("input", () => choose(Number(scrubber.value)));
  metric.addEventListener("change", paint);

  function choose(index) {
    chosen = index === frames.length - 1 ? null : index;
    paint();
  }

  function complain(text) {
    trouble.textContent = text;
    trouble.style.display = text ? "block" : "none";
  }

  function show(found) {
    previews = found;
    strip.set(previews);
  }

  function told(frame) {
    const last = frames.at(-1);
    const cut = frame.cut_from ? `: cut from mean rank ${short(frame.cut_from)}` : "";
    const left = frame !== last ? "" : frame.step >= begin.steps ? `, done${cut}`
      : ended ? ", stopped" : `, ${clock(frame.seconds_left)} left`;
    return `step ${frame.step}/${begin.steps}, loss ${frame.loss.toPrecision(3)}, ` +
      `mean rank ${short(frame.mean_rank)}, ${Number(frame.megabytes.toPrecision(3))} MB in fp16${left}`;
  }

  function paint() {
    if (!frames.length || !element.clientWidth) return;
    const frame = frames[chosen ?? frames.length - 1], colours = THEMES[theme()];
    state.textContent = told(frame);
    strip.mark(frame.step);
    picture.ariaLabel = state.textContent;
    const size = { width: Math.floor((element.clientWidth - 2 * GAP) / 3), height: CURVE };
    const losses = smoothed(frames.map(one => one.loss));
    const series = [losses, frames.map(one => one.mean_rank), frames.map(one => one.megabytes)];
    curves.forEach(({ label, canvas }, i) =>
      drawCurve(prepared(canvas, size.width, size.height), size,
        frames.map((one, at) => [one.step, series[i][at]]), {
          steps: begin.steps, label, theme: colours, at: chosen === null ? null : frame.step,
          colour: COLOURS[i],
        }));
    metric.hidden = !frames.some(one => one.effects);
    const name = metric.hidden ? "rank" : metric.value; // the choice stays for when they are known
    // last: what is above and below it must have its height first
    const found = grid(reportAt(begin, frame), name);
    const places = layout(found, element.clientWidth, box.clientHeight);
    draw(prepared(picture, places.width, places.height), found, coloursOf(name), places, {
      theme: colours, title: METRICS[name].label,
    });
    scrubber.max = String(frames.length - 1);
    if (chosen === null) scrubber.value = scrubber.max;
    scrubber.ariaValueText = `step ${frame.step}`;
  }

  /** One scale for all frames: ranks of all of them, effects of the newest, which are known best. */
  function coloursOf(name) {
    if (name === "rank") return scale([1, Math.max(...frames.map(one => one.highest))], { log: true });
    const newest = frames.findLast(one => one.effects);
    return scale(values(grid(reportAt(begin, newest), name)), METRICS[name]);
  }

  function add(frame) {
    const step = frames.at(-1)?.step ?? -1;
    if (frame.step < step) return;
    if (frame.step === step) frames.pop(); // the last one again, as the file has it
    frames.push({ ...frame, highest: Math.max(...ranksOf(frame.ranks)) });
    if (frames.length <= MOST) return;
    frames = frames.filter((_, i) => i % 2 === 0 || i === frames.length - 1);
    chosen = null;
  }

  return {
    element,
    started: () => begin !== null,
    pictured: () => previews.length > 0,
    take(message) {
      if (message.kind === "begin") {
        begin = message;
        frames = [];
        chosen = null;
        ended = false;
        element.style.display = "flex";
        strip.clear();
        show(message.previews);
        complain("");
      } else if (begin) {
        if (message.kind === "frame") add(message);
        else if (message.kind === "preview") {
          show([...previews.filter(one => one.step !== message.step), message]
            .sort((a, b) => a.step - b.step));
        } else if (message.kind === "trouble") complain(message.text);
        else ended = true;
        paint();
      }
    },
    restore(found) {
      const at = chosen === null ? null : frames[chosen]?.step;
      if (found.begin.run !== begin?.run) strip.clear();
      ({ begin, ended } = found);
      show(found.previews);
      complain(found.trouble);
      frames = [];
      found.frames.forEach(add);
      element.style.display = "flex";
      chosen = at === null ? null : Math.max(0, frames.findLastIndex(one => one.step <= at));
      paint();
    },
    resize: paint,
  };
}
