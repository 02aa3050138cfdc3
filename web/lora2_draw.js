// A grid as a picture: where everything lies, and how it is painted on a canvas.

import { leftOut, plain, short } from "./lora2_grid.js";

const LEFT = 96, TOP = 34, LEGEND = 44, MARGIN = 8;
const LOWEST = 9, HIGHEST = 22; // pixels of a row
const TALLEST = 8000; // of all rows together: with more than 900 of them, rows are lower
const NAMED = 8; // a row of at least this has its name beside it
const NUMBERS = { width: 30, height: 13 }; // a cell of at least this has its number in it
const GAP = 6; // between sections
const MOST_PIXELS = 16e6; // of a canvas

export const THEMES = {
  dark: { ink: "#e6e6ea", faint: "#a2a2ac", empty: "#33333a", unknown: "#55555e", paper: "#26262b" },
  light: { ink: "#22222a", faint: "#62626c", empty: "#ececea", unknown: "#c8c8cc", paper: "#fcfcfa" },
};

/**
 * Places of a grid's cells in a picture that is `width` wide; as high as `height` if it can.
 * { width, height, row, column, box(row, column), cellAt(x, y) }; cellAt gives { row, column } or
 * null, also for the holes of the grid.
 */
export function layout(found, width, height = Infinity) {
  const { rows, columns } = found;
  const breaks = rows.map((row, i) => (i > 0 && row.section !== rows[i - 1].section ? 1 : 0));
  let above = 0;
  const shift = breaks.map(step => (above += step * GAP));
  const room = (height - TOP - LEGEND - above) / rows.length;
  const least = Math.min(LOWEST, TALLEST / rows.length);
  const row = rows.length * LOWEST > TALLEST ? least
    : Math.floor(Math.min(HIGHEST, Math.max(least, Number.isFinite(room) ? room : 15)));
  const column = Math.max(4, (width - LEFT - MARGIN) / columns.length);
  const tops = rows.map((_, i) => TOP + i * row + shift[i]);
  const box = (i, j) => ({ x: LEFT + j * column, y: tops[i], width: column, height: row });
  return {
    width,
    height: TOP + rows.length * row + above + LEGEND,
    row,
    column,
    box,
    cellAt(x, y) {
      const j = Math.floor((x - LEFT) / column);
      const i = tops.findLastIndex(top => y >= top);
      return i >= 0 && y < tops[i] + row && j >= 0 && j < columns.length ? { row: i, column: j } : null;
    },
  };
}

/** The next cell that is no hole, from a cell in a direction (up, down, left, right); or itself. */
export function neighbour(found, from, direction) {
  const steps = { up: [-1, 0], down: [1, 0], left: [0, -1], right: [0, 1] };
  const [di, dj] = steps[direction];
  let { row, column } = from;
  for (;;) {
    row += di;
    column += dj;
    if (row < 0 || row >= found.rows.length) return from;
    if (column < 0 || column >= found.columns.length) return from;
    if (found.rows[row].cells[column]) return { row, column };
  }
}

/** Makes a canvas `width` by `height` CSS pixels big and sharp; returns its context. */
export function prepared(canvas, width, height) {
  const wanted = Math.max(2, globalThis.devicePixelRatio || 1); // the host may show it enlarged
  const ratio = Math.max(1, Math.min(wanted, Math.sqrt(MOST_PIXELS / (width * height))));
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  return ctx;
}

/** Paints grid and legend. */
export function draw(ctx, found, scale, places, { theme, title = "" }) {
  ctx.clearRect(0, 0, places.width, places.height);
  columnNames(ctx, found, places, theme);
  found.rows.forEach((row, i) => {
    if (places.row >= NAMED) {
      ctx.font = `${Math.min(11, places.row)}px sans-serif`;
      ctx.textAlign = "right";
      ctx.textBaseline = "middle";
      ctx.fillStyle = theme.ink;
      ctx.fillText(cut(row.name), LEFT - 6, places.box(i, 0).y + places.row / 2, LEFT - 8);
    }
    row.cells.forEach((cell, j) => paintCell(ctx, cell, places.box(i, j), scale, theme));
  });
  legend(ctx, scale, places, theme, title);
  if (found.rows.some(row => row.cells.some(leftOut))) legendOfNone(ctx, places, theme);
}

function columnNames(ctx, found, places, theme) {
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.font = "10px sans-serif";
  found.columns.forEach((name, j) => {
    const [kind, ...rest] = plain(name).split(" ");
    const { x, width } = places.box(0, j);
    ctx.fillStyle = theme.faint;
    ctx.fillText(kind, x + width / 2, 10, width - 2);
    ctx.fillStyle = theme.ink;
    ctx.fillText(rest.join(" "), x + width / 2, 23, width - 2);
  });
}

function paintCell(ctx, cell, { x, y, width, height }, scale, theme) {
  const numbered = width >= NUMBERS.width && height >= NUMBERS.height;
  if (leftOut(cell)) {
    outline(ctx, { x, y, width, height }, theme);
    if (numbered) number(ctx, "0", { x, y, width, height }, theme.faint);
    return;
  }
  const unknown = cell && cell.value === null;
  ctx.fillStyle = !cell ? theme.empty : unknown ? theme.unknown : scale.colour(cell.value);
  const gap = height >= 4 ? 1 : 0;
  ctx.fillRect(x + gap / 2, y + gap / 2, width - gap, height - gap);
  if (!cell || unknown || !numbered) return;
  number(ctx, short(cell.value), { x, y, width, height }, scale.ink(cell.value));
}

function number(ctx, text, { x, y, width, height }, ink) {
  ctx.font = "10px sans-serif";
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillStyle = ink;
  ctx.fillText(text, x + width / 2, y + height / 2, width - 2);
}

/** A cell of rank 0: not a colour of the scale, for nothing of it is in the file. */
function outline(ctx, { x, y, width, height }, theme) {
  ctx.strokeStyle = theme.faint;
  ctx.lineWidth = 1;
  ctx.strokeRect(x + 1, y + 1, Math.max(0, width - 2), Math.max(0, height - 2));
}

function legend(ctx, scale, places, theme, title) {
  const y = places.height - LEGEND + 14, width = Math.min(220, places.width - LEFT - MARGIN);
  const steps = 64;
  for (let i = 0; i < steps; i++) {
    ctx.fillStyle = scale.colour(scale.at(i / (steps - 1)));
    ctx.fillRect(LEFT + (i * width) / steps, y, width / steps + 1, 9);
  }
  ctx.font = "10px sans-serif";
  ctx.textBaseline = "top";
  ctx.textAlign = "center";
  ctx.fillStyle = theme.ink;
  for (const mark of scale.ticks()) ctx.fillText(short(mark), LEFT + scale.share(mark) * width, y + 12);
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  ctx.fillText(title, LEFT - 6, y + 5, LEFT - 8);
}

/** Below the title of the legend: what an outline means. */
function legendOfNone(ctx, places, theme) {
  const y = places.height - LEGEND + 27, size = 9;
  outline(ctx, { x: LEFT - 26 - size, y, width: size + 2, height: size + 2 }, theme);
  ctx.font = "10px sans-serif";
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  ctx.fillStyle = theme.ink;
  ctx.fillText("rank 0", LEFT - 32 - size, y + 6);
}

function cut(name) {
  const text = plain(name);
  return text.length > 18 ? `…${text.slice(-17)}` : text;
}
