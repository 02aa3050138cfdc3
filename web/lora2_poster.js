// Pictures as one picture, to save.

import { prepared } from "./lora2_draw.js";

const GAP = 8, TITLE = 18; // pixels

/** Canvases beside one another with their titles, on paper. pictures: [{ canvas, places, title }]. */
export function poster(document, pictures, theme) {
  const width = pictures.reduce((sum, { places }) => sum + places.width + GAP, GAP);
  const height = Math.max(...pictures.map(({ places }) => places.height)) + TITLE + 2 * GAP;
  const canvas = document.createElement("canvas");
  const ctx = prepared(canvas, width, height);
  ctx.fillStyle = theme.paper;
  ctx.fillRect(0, 0, width, height);
  ctx.font = "600 11px sans-serif";
  ctx.textBaseline = "middle";
  ctx.fillStyle = theme.ink;
  let x = GAP;
  for (const { canvas: picture, places, title } of pictures) {
    ctx.fillText(title, x, GAP + TITLE / 2, places.width);
    ctx.drawImage(picture, x, GAP + TITLE, places.width, places.height);
    x += places.width + GAP;
  }
  return canvas;
}
