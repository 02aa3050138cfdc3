// A grid as a picture: where everything lies, and how it is painted on a canvas.

import { short } from "./lora2_grid.js";

const LEFT = 96, TOP = 34, LEGEND = 44, MARGIN = 8;
const LOWEST = 9, HIGHEST = 22; // pixels of a row
const NUMBERS = { width: 30, height: 13 }; // a cell of at least this has its number in it
const GAP = 6; // between sections

export const THEMES = {
  dark: { ink: "#e6e6ea", faint: "#9a9aa4", empty: "#33333a", unknown: "#55555e", focus: "#ffffff" },
  light: { ink: "#22222a", faint: "#6c6c76", empty: "#ececea", unknown: "#c8c8cc", focus: "#000000" },
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
  const row = Math.round(Math.min(HIGHEST, Math.max(LOWEST, Number.isFinite(room) ? room : 15)));
  const column = Math.max(4, (width - LEFT - MARGIN) / columns.length);
  const box = (i, j) => ({
    x: LEFT + j * column, y: TOP + i * row + shift[i], width: column, height: row,
  });
  return {
    width,
    height: TOP + rows.length * row + above + LEGEND,
    row,
    column,
    box,
    cellAt(x, y) {
      const j = Math.floor((x - LEFT) / column);
      const i = rows.findIndex((_, at) => y >= box(at, 0).y && y < box(at, 0).y + row);
      return i >= 0 && j >= 0 && j < columns.length ? { row: i, column: j } : null;
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

/** Paints grid and legend; focus: { row, column } of a cell that is framed, or null. */
export function draw(ctx, found, scale, places, { theme, title = "", focus = null }) {
  ctx.clearRect(0, 0, places.width, places.height);
  columnNames(ctx, found, places, theme);
  found.rows.forEach((row, i) => {
    const { y } = places.box(i, 0);
    ctx.font = `${Math.min(11, places.row)}px sans-serif`;
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    ctx.fillStyle = theme.ink;
    ctx.fillText(cut(row.name), LEFT - 6, y + places.row / 2);
    row.cells.forEach((cell, j) => paintCell(ctx, cell, places.box(i, j), scale, theme));
  });
  if (focus) {
    const { x, y, width, height } = places.box(focus.row, focus.column);
    ctx.strokeStyle = theme.focus;
    ctx.lineWidth = 2;
    ctx.strokeRect(x, y, width, height);
  }
  legend(ctx, scale, places, theme, title);
}

function columnNames(ctx, found, places, theme) {
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  found.columns.forEach((name, j) => {
    const [kind, ...rest] = name.split(" ");
    const { x, width } = places.box(0, j);
    ctx.font = "10px sans-serif";
    ctx.fillStyle = theme.faint;
    ctx.fillText(kind, x + width / 2, 10);
    ctx.fillStyle = theme.ink;
    ctx.fillText(rest.join(" "), x + width / 2, 23);
  });
}

function paintCell(ctx, cell, { x, y, width, height }, scale, theme) {
  const unknown = cell && cell.value === null;
  ctx.fillStyle = !cell ? theme.empty : unknown ? theme.unknown : scale.colour(cell.value);
  ctx.fillRect(x + 0.5, y + 0.5, width - 1, height - 1);
  if (!cell || unknown || width < NUMBERS.width || height < NUMBERS.height) return;
  ctx.font = "10px sans-serif";
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillStyle = scale.ink(cell.value);
  ctx.fillText(short(cell.value), x + width / 2, y + height / 2);
}

function legend(ctx, scale, places, theme, title) {
  const y = places.height - LEGEND + 14, width = Math.min(220, places.width - LEFT - MARGIN);
  const steps = 64;
  for (let i = 0; i < steps; i++) {
    const at = i / (steps - 1);
    const value = scale.log && !scale.signed
      ? scale.low * (scale.high / scale.low) ** at
      : scale.low + (scale.high - scale.low) * at;
    ctx.fillStyle = scale.colour(value);
    ctx.fillRect(LEFT + (i * width) / steps, y, width / steps + 1, 9);
  }
  ctx.font = "10px sans-serif";
  ctx.textBaseline = "top";
  ctx.fillStyle = theme.ink;
  const marks = scale.ticks();
  marks.forEach((mark, i) => {
    const at = marks.length > 1 ? i / (marks.length - 1) : 1;
    const span = scale.log && !scale.signed && scale.high > scale.low
      ? Math.log(mark / scale.low) / Math.log(scale.high / scale.low) : at;
    ctx.textAlign = "center";
    ctx.fillText(short(mark), LEFT + span * width, y + 12);
  });
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  ctx.fillText(title, LEFT - 6, y + 5);
}

function cut(name) {
  return name.length > 16 ? `…${name.slice(-15)}` : name;
}
