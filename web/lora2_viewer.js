// The rank viewer as an element: toolbar, picture, totals, and the details of one component.
// It knows nothing of the host. All text of a file goes in as text, never as HTML.

import { METRICS, csv, difference, grid, short, values } from "./lora2_grid.js";
import { THEMES, draw, layout, neighbour } from "./lora2_draw.js";
import { scale } from "./lora2_scale.js";
import { drawSpectrum } from "./lora2_spectrum.js";

const SUMMARIES = new Set(["rank90", "rank99", "size"]); // of which a report alone knows nothing
const LONGEST = 120; // characters of a name that are shown
const STYLE = `
.lora2-viewer { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%;
  overflow: hidden; font: 11px sans-serif; color: var(--input-text, #ddd); box-sizing: border-box; }
.lora2-viewer .bar { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; flex: none; }
.lora2-viewer select, .lora2-viewer button { font: inherit; color: inherit; padding: 2px 6px;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #555);
  border-radius: 4px; }
.lora2-viewer .pictures { flex: 1 1 auto; min-height: 0; overflow: auto; display: flex; gap: 8px; }
.lora2-viewer .pictures > div { flex: 1 1 0; min-width: 0; }
.lora2-viewer .title { white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
  font-weight: 600; }
.lora2-viewer canvas { display: block; outline: none; }
.lora2-viewer .details { flex: none; height: 74px; display: flex; gap: 8px; overflow: hidden; }
.lora2-viewer .details .text { flex: 1 1 50%; white-space: pre-line; overflow: auto; }
`;

function styled(document) {
  if (document.getElementById("lora2-viewer-style")) return;
  const style = document.createElement("style");
  style.id = "lora2-viewer-style";
  style.textContent = STYLE;
  document.head.append(style);
}

function made(document, tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function plain(text) {
  // control characters and marks that turn the direction of what follows
  const shown = String(text).replace(/[\p{Cc}\p{Cf}]/gu, "·");
  return shown.length > LONGEST ? `${shown.slice(0, LONGEST - 1)}…` : shown;
}

/** What the details say of a component. */
export function described(part) {
  const lines = [
    plain(part.name),
    `rank ${part.rank}${part.before ? ` of ${part.before}` : ""}, layer ${part.shape.join(" × ")}`,
  ];
  const more = [];
  if (part.alpha !== null && part.alpha !== undefined) more.push(`alpha ${short(part.alpha)}`);
  if (part.nu !== null && part.nu !== undefined) more.push(`ν ${short(part.nu)}`);
  more.push(`${short(part.bytes / 1e6)} MB`);
  if (typeof part.retained === "number") more.push(`${(100 * part.retained).toFixed(2)} % kept`);
  if (typeof part.rank90 === "number") more.push(`90 % in ${part.rank90}, 99 % in ${part.rank99}`);
  return [...lines, more.join(", ")].join("\n");
}

/** One line of totals. */
export function summed(totals) {
  const parts = [
    `${totals.components} layers`,
    `${short(totals.bytes / 1e6)} MB`,
    `mean rank ${short(totals.mean_rank)} (by parameters ${short(totals.weighted_mean_rank)})`,
    `${totals.rank_one} at rank 1`,
    `highest ${totals.max_rank}`,
  ];
  if (typeof totals.retained === "number") {
    parts.push(`${(100 * totals.retained).toFixed(2)} % of the energy kept`);
  }
  return parts.join(" · ");
}

/**
 * { element, show(views), resize(), destroy() }. views: [{ title, report, token }].
 * ask(path): JSON of the server, or an error; theme(): "dark" or "light"; save(name, blob).
 */
export function createViewer(document, { ask, theme, save }) {
  styled(document);
  let views = [];
  let focus = null; // { view, row, column }
  let painted = []; // what is on each canvas
  const metric = made(document, "select", { title: "What the colours show" });
  for (const [name, { label }] of Object.entries(METRICS)) {
    metric.append(made(document, "option", { value: name, textContent: label }));
  }
  const rows = made(document, "select", { title: "A row for" });
  rows.append(
    made(document, "option", { value: "layers", textContent: "every layer" }),
    made(document, "option", { value: "blocks", textContent: "every block" }),
  );
  const compare = made(document, "select", { title: "Comparison" });
  compare.append(
    made(document, "option", { value: "beside", textContent: "side by side" }),
    made(document, "option", { value: "difference", textContent: "second minus first" }),
  );
  const png = made(document, "button", { type: "button", textContent: "PNG" });
  const table = made(document, "button", { type: "button", textContent: "CSV" });
  const bar = made(document, "div", { className: "bar" }, [metric, rows, compare, png, table]);
  const pictures = made(document, "div", { className: "pictures" });
  const text = made(document, "div", { className: "text", ariaLive: "polite" });
  const curve = made(document, "canvas");
  const details = made(document, "div", { className: "details" }, [text, curve]);
  const element = made(document, "div", { className: "lora2-viewer" }, [bar, pictures, details]);

  function grids() {
    const blocks = rows.value === "blocks";
    const found = views.map(view => grid(view.report, metric.value, { blocks }));
    if (views.length === 2 && compare.value === "difference") {
      const titles = views.map(view => plain(view.title));
      return [{ found: difference(...found), title: `${titles[1]} − ${titles[0]}`, view: null, signed: true }];
    }
    return found.map((one, i) => ({ found: one, title: plain(views[i].title), view: views[i] }));
  }

  function paint() {
    compare.hidden = views.length !== 2;
    const shown = grids();
    const log = METRICS[metric.value].log;
    const all = shown.flatMap(({ found }) => values(found));
    const colours = scale(all, { log, signed: shown.some(({ signed }) => signed) });
    const colourSet = THEMES[theme()];
    const room = pictures.clientHeight - 18;
    const width = Math.max(220, (pictures.clientWidth - 8 * (shown.length - 1)) / Math.max(1, shown.length));
    painted = shown.map(({ found, title, view }, i) => {
      const old = painted[i];
      const name = old?.name ?? made(document, "div", { className: "title" });
      const canvas = old?.canvas ?? picture(i);
      const box = old?.box ?? made(document, "div", {}, [name, canvas]);
      name.textContent = title;
      name.title = view ? summed(view.report.totals) : "";
      const places = layout(found, width, room);
      const ratio = Math.max(2, globalThis.devicePixelRatio || 1); // the host may enlarge the node
      canvas.width = Math.round(places.width * ratio);
      canvas.height = Math.round(places.height * ratio);
      canvas.style.width = `${places.width}px`;
      canvas.style.height = `${places.height}px`;
      const ctx = canvas.getContext("2d");
      ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
      const at = focus?.view === i ? focus : null;
      draw(ctx, found, colours, places, { theme: colourSet, title: METRICS[metric.value].label, focus: at });
      return { box, name, canvas, found, places, view };
    });
    pictures.replaceChildren(...painted.map(({ box }) => box));
  }

  function picture(i) {
    const canvas = made(document, "canvas", { tabIndex: 0, ariaLabel: "ranks by layer" });
    const under = event => {
      const { places } = painted[i];
      const box = canvas.getBoundingClientRect();
      const zoom = box.width / places.width || 1; // the host may show the node enlarged
      return places.cellAt((event.clientX - box.left) / zoom, (event.clientY - box.top) / zoom);
    };
    canvas.addEventListener("pointermove", event => point(i, under(event)));
    canvas.addEventListener("pointerleave", () => point(i, null));
    canvas.addEventListener("click", event => {
      point(i, under(event));
      open();
    });
    canvas.addEventListener("focus", () => {
      if (focus?.view === i) return;
      const row = painted[i].found.rows.findIndex(line => line.cells.some(Boolean));
      if (row >= 0) point(i, { row, column: painted[i].found.rows[row].cells.findIndex(Boolean) });
    });
    canvas.addEventListener("keydown", event => {
      const direction = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" }[event.key];
      if (direction && focus?.view === i) point(i, neighbour(painted[i].found, focus, direction));
      else if (event.key === "Enter" || event.key === " ") open();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return canvas;
  }

  function point(i, cell) {
    const found = cell && painted[i].found.rows[cell.row].cells[cell.column];
    const next = found ? { view: i, ...cell } : null;
    if (next?.view === focus?.view && next?.row === focus?.row && next?.column === focus?.column) return;
    focus = next;
    paint();
    text.textContent = found ? found.parts.map(described).join("\n") : totals();
    if (!found) curve.hidden = true;
  }

  function totals() {
    return views.map(view => `${plain(view.title)}: ${summed(view.report.totals)}`).join("\n");
  }

  async function open() {
    if (!focus) return;
    const { view, found } = painted[focus.view];
    const part = found.rows[focus.row].cells[focus.column].parts[0];
    if (!view?.token) return;
    const spectrum = await ask(`/lora2/spectra/${view.token}/${view.report.components.indexOf(part)}`);
    if (spectrum.error) {
      text.textContent = `${described(part)}\n${spectrum.error}`;
      return;
    }
    text.textContent = described({ ...part, ...spectrum });
    curve.hidden = false;
    drawSpectrum(curve, spectrum, THEMES[theme()]);
  }

  async function summarise() {
    if (!SUMMARIES.has(metric.value)) return;
    for (const view of views.filter(one => one.token && !one.summary)) {
      text.textContent = "computing the singular values of every layer …";
      view.summary = await ask(`/lora2/spectra/${view.token}`);
      if (view.summary.error) text.textContent = view.summary.error;
      else view.report.components.forEach((part, i) => Object.assign(part, view.summary[i]));
    }
    paint();
  }

  function fileName(ending) {
    const stem = (views[0]?.title ?? "ranks").split("/").pop().replace(/[^\w.-]+/g, "_").slice(0, 60);
    return `${stem.replace(/\.safetensors$/, "")}_ranks.${ending}`;
  }

  metric.addEventListener("change", () => {
    paint();
    summarise();
  });
  for (const choice of [rows, compare]) choice.addEventListener("change", paint);
  table.addEventListener("click", () => {
    const parts = views.map(view => csv(view.report)).join("\r\n");
    save(fileName("csv"), new Blob([parts], { type: "text/csv" }));
  });
  png.addEventListener("click", () => {
    painted[0]?.canvas.toBlob(blob => blob && save(fileName("png"), blob));
  });

  return {
    element,
    show(given) {
      views = given;
      focus = null;
      painted = [];
      curve.hidden = true;
      paint();
      text.textContent = totals();
      summarise();
    },
    resize: () => views.length && paint(),
  };
}
