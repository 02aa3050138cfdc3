// The rank viewer as an element: toolbar, pictures, totals, and the details of one component.
// It knows nothing of the host. All text of a file goes in as text, never as HTML.

import { THEMES, draw, layout, neighbour, prepared } from "./lora2_draw.js";
import { METRICS, csv, difference, grid, offered, plain, values, withSummary } from "./lora2_grid.js";
import { poster } from "./lora2_poster.js";
import { scale } from "./lora2_scale.js";
import { createSpectrum } from "./lora2_spectrum.js";
import { described, summed } from "./lora2_words.js";

const SUMMARIES = new Set(["rank90", "rank99", "share"]); // of which a report alone knows nothing
const REST = 150; // milliseconds on a cell, after which its spectrum is asked for
const LEAST_WIDTH = 240, GAP = 8, TITLE = 18;
const STYLE = `
.lora2-viewer { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%;
  overflow: hidden; font: 11px sans-serif; color: var(--input-text, #ddd); box-sizing: border-box; }
.lora2-viewer .bar { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; flex: none; }
.lora2-viewer select, .lora2-viewer button { font: inherit; color: inherit; padding: 2px 6px;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #555);
  border-radius: 4px; }
.lora2-viewer .pictures { flex: 1 1 auto; min-height: 0; overflow: auto; display: flex;
  gap: ${GAP}px; }
.lora2-viewer .pictures > div { flex: none; position: relative; }
.lora2-viewer .title { height: ${TITLE}px; line-height: ${TITLE}px; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; font-weight: 600; }
.lora2-viewer canvas { display: block; }
.lora2-viewer .pictures canvas, .lora2-viewer .pictures canvas:focus { outline: none; }
.lora2-viewer .mark { position: absolute; pointer-events: none; box-sizing: border-box;
  border: 2px solid var(--input-text, #fff); }
.lora2-viewer .hint { margin: auto; max-width: 40em; text-align: center; overflow-wrap: anywhere; }
.lora2-viewer .details { flex: none; height: 88px; display: flex; gap: ${GAP}px; overflow: hidden; }
.lora2-viewer .details .text { flex: 1 1 50%; white-space: pre-line; overflow: auto;
  overflow-wrap: anywhere; }
.lora2-viewer .spectrum { flex: none; width: 200px; }
.lora2-viewer [hidden] { display: none; }
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

/**
 * { element, show(views), say(text), resize() }. views: [{ title, report, token, note }]; say
 * shows a text instead. ask(path): JSON of the server, or { error }; theme(): "dark" or "light";
 * save(name, blob).
 */
export function createViewer(document, { ask, theme, save }) {
  styled(document);
  let views = [];
  let focus = null, pinned = null; // { view, row, column }: under the pointer or keys, and clicked
  let painted = []; // what is on each canvas
  let resting = 0;
  const options = found => found.map(([value, textContent]) => made(document, "option", { value, textContent }));
  const choice = (title, found) =>
    made(document, "select", { title, ariaLabel: title }, options(found));
  const metric = choice("What the colours show", offered([]));
  const rows = choice("A row for", [["layers", "every layer"], ["blocks", "every block"]]);
  const compare = choice("Comparison", [["beside", "side by side"], ["difference", "second minus first"]]);
  const button = (textContent, title) => made(document, "button", { type: "button", textContent, title });
  const png = button("PNG", "Save the picture"), table = button("CSV", "Save the numbers");
  const bar = made(document, "div", { className: "bar" }, [metric, rows, compare, png, table]);
  const pictures = made(document, "div", { className: "pictures" });
  const text = made(document, "div", { className: "text", ariaLive: "polite" });
  const spectrum = createSpectrum(document, { theme: () => THEMES[theme()] });
  const details = made(document, "div", { className: "details" }, [text, spectrum.element]);
  const element = made(document, "div", { className: "lora2-viewer" }, [bar, pictures, details]);

  function grids() {
    const blocks = rows.value === "blocks";
    const found = views.map(view => grid(view.report, metric.value, { blocks }));
    if (views.length === 2 && compare.value === "difference") {
      const [first, second] = views.map(view => plain(view.title));
      return [{ found: difference(...found), title: `${second} − ${first}`, signed: true }];
    }
    return found.map((one, i) => ({ found: one, title: plain(views[i].title) }));
  }

  /** Offers what is known of what is shown; keeps the choice if it can. */
  function offer() {
    const before = metric.value, found = offered(views.map(view => view.report));
    metric.replaceChildren(...options(found));
    metric.value = found.some(([name]) => name === before) ? before : "rank";
  }

  function paint() {
    bar.hidden = !views.length;
    compare.hidden = views.length !== 2;
    const shown = grids();
    const { log, span } = METRICS[metric.value], label = metric.selectedOptions[0].textContent;
    const signed = shown.some(one => one.signed);
    const colours = scale(shown.flatMap(({ found }) => values(found)), { log, span, signed });
    const share = (pictures.clientWidth - GAP * (shown.length - 1)) / shown.length;
    const width = Math.max(LEAST_WIDTH, Math.floor(share));
    painted = shown.map(({ found, title }, i) => {
      const old = painted[i] ?? frame(i);
      old.name.textContent = title;
      old.name.style.width = `${width}px`;
      const places = layout(found, width, pictures.clientHeight - TITLE - 2);
      const ctx = prepared(old.canvas, places.width, places.height);
      draw(ctx, found, colours, places, { theme: THEMES[theme()], title: label });
      return { ...old, found, places, title };
    });
    const boxes = painted.map(({ box }) => box), there = pictures.children;
    if (boxes.length !== there.length || boxes.some((box, i) => box !== there[i])) {
      pictures.replaceChildren(...boxes); // which takes the keyboard's focus away
    }
    mark();
  }

  function frame(i) {
    const name = made(document, "div", { className: "title" });
    const canvas = made(document, "canvas", {
      tabIndex: 0, role: "application",
      ariaLabel: "ranks by layer; arrow keys move, Enter shows the singular values",
    });
    const border = made(document, "div", { className: "mark", hidden: true });
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
      pin(focus);
    });
    canvas.addEventListener("focus", () => {
      // what the keyboard starts from; a pointer has its cell already
      if (focus?.view !== i && canvas.matches(":focus-visible")) point(i, first(i));
    });
    canvas.addEventListener("blur", () => point(i, null));
    canvas.addEventListener("keydown", event => {
      const direction = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" }[event.key];
      const at = focus?.view === i ? focus : first(i);
      if (direction) point(i, neighbour(painted[i].found, at, direction));
      else if (event.key === "Enter" || event.key === " ") pin(at);
      else if (event.key === "Escape" && pinned) pin(null);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return { box: made(document, "div", {}, [name, canvas, border]), name, canvas, border };
  }

  function first(i) {
    const { rows: lines } = painted[i].found;
    const row = lines.findIndex(line => line.cells.some(Boolean));
    return { view: i, row, column: lines[row].cells.findIndex(Boolean) };
  }

  function same(a, b) {
    return a?.view === b?.view && a?.row === b?.row && a?.column === b?.column;
  }

  function partsAt(at) {
    return painted[at.view]?.found.rows[at.row]?.cells[at.column]?.parts ?? [];
  }

  function point(i, cell) {
    const next = cell && partsAt({ view: i, ...cell }).length
      ? { view: i, row: cell.row, column: cell.column } : null;
    if (same(next, focus)) return;
    focus = next;
    clearTimeout(resting);
    if (focus) resting = setTimeout(() => learn(focus), REST);
    tell();
  }

  function pin(at) {
    pinned = at;
    tell();
    if (at) learn(at);
  }

  /** Marks and describes the cell that is pointed at, else the one that was clicked. */
  function tell() {
    const at = focus ?? pinned;
    const parts = at ? partsAt(at) : [];
    mark();
    text.textContent = parts.length ? parts.map(part => spoken(part)).join("\n") : totals();
    const [one] = pinned && same(at, pinned) ? parts.filter(part => part.rank > 0) : [];
    if (one?.spectrum && !one.spectrum.error) spectrum.show(one.spectrum, one.bytes);
    else spectrum.hide();
  }

  function spoken(part) {
    const owner = views.find(view => view.report.components.includes(part));
    const head = views.length > 1 ? `${plain(owner.title)}: ` : "";
    const error = part.spectrum?.error ? `\n${plain(part.spectrum.error)}` : "";
    return `${head}${described(part, owner.report)}${error}`;
  }

  function mark() {
    const at = focus ?? pinned;
    painted.forEach(({ border, found, places }, i) => {
      border.hidden = at?.view !== i || !found.rows[at.row]?.cells[at.column];
      if (border.hidden) return;
      const { x, y, width, height } = places.box(at.row, at.column);
      border.style.left = `${x - 1}px`;
      border.style.top = `${TITLE + y - 1}px`;
      border.style.width = `${width + 2}px`;
      border.style.height = `${height + 2}px`;
    });
  }

  function totals() {
    return views.map(view => {
      const note = view.note ? `\n${plain(view.note, 400)}` : "";
      return `${plain(view.title)}: ${summed(view.report)}${note}`;
    }).join("\n");
  }

  /** Asks for the spectra behind a cell, once; what is of rank 0 has none. */
  async function learn(at) {
    const part = at && partsAt(at).find(one => one.rank > 0 && !one.spectrum);
    const view = part && views.find(one => one.report.components.includes(part));
    if (!view?.token) return;
    const index = view.report.components.indexOf(part);
    const found = await ask(`/lora2/spectra?token=${view.token}&component=${index}`);
    const { sigma, error, ...known } = found;
    Object.assign(part, known, { spectrum: found });
    if (same(at, focus ?? pinned)) tell();
    if (!error) learn(at);
  }

  async function summarise() {
    if (!SUMMARIES.has(metric.value)) return;
    const asked = views;
    for (const view of asked.filter(one => one.token && !one.summary)) {
      text.textContent = "computing the singular values of every layer …";
      const found = await ask(`/lora2/spectra?token=${view.token}`);
      if (views !== asked) return;
      if (found.error) {
        text.textContent = plain(found.error, 400);
        return;
      }
      view.summary = found;
      withSummary(view.report, found);
    }
    paint();
    tell();
  }

  function fileName(ending) {
    const stem = (views[0]?.title ?? "ranks").split(/[/\\]/).pop().replace(/\.safetensors$/, "");
    return `${stem.replace(/[^\w.-]+/g, "_").slice(0, 60)}_ranks.${ending}`;
  }

  metric.addEventListener("change", () => {
    paint();
    tell();
    summarise();
  });
  for (const select of [rows, compare]) {
    select.addEventListener("change", () => {
      focus = pinned = null;
      paint();
      tell();
    });
  }
  table.addEventListener("click", () => {
    const parts = views.map(view => csv(view.report)).join("\r\n");
    save(fileName("csv"), new Blob(["\ufeff", parts], { type: "text/csv" })); // for spreadsheets: UTF-8
  });
  png.addEventListener("click", () => {
    const picture = poster(document, painted, THEMES[theme()]);
    picture.toBlob(blob => blob && save(fileName("png"), blob));
  });
  bar.hidden = true;

  return {
    element,
    show(given) {
      views = given;
      focus = pinned = null;
      painted = [];
      offer();
      paint();
      tell();
      summarise();
    },
    say(message) {
      views = painted = [];
      focus = pinned = null;
      bar.hidden = true;
      spectrum.hide();
      text.textContent = "";
      const textContent = plain(message, 400);
      pictures.replaceChildren(made(document, "p", { className: "hint", role: "status", textContent }));
    },
    resize: () => views.length && paint(),
  };
}
