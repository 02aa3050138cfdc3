// A rank report as a grid: a row a layer in forward order, a column a kind of projection.

/**
 * What a cell can show. value: of one component; sum: whether values of a block add up; log, span:
 * the scale's (lora2_scale.js); asked: not offered for reports that know no such value; label: a
 * text, or what it is called for those reports.
 */
export const METRICS = {
  rank: { label: "rank", log: true, value: part => part.rank },
  bytes: { label: "megabytes", log: true, sum: true, value: part => part.bytes / 1e6 },
  nu: { label: "ν", log: true, value: part => part.nu },
  effect: {
    label: "effect, % of the whole", log: true, span: 1000, sum: true, asked: true,
    value: part => (known(part.effect) ? 100 * part.effect : null),
  },
  retained: { label: reports => `${measure(reports)} kept`, value: part => part.retained },
  rank90: { label: "rank of 90 % energy", log: true, value: part => part.rank90 },
  rank99: { label: "rank of 99 % energy", log: true, value: part => part.rank99 },
  share: { label: "‖ΔW‖ against the mean", log: true, value: part => part.share },
};

/** The metrics that these reports offer: [[name, label]]. */
export function offered(reports) {
  const there = ({ asked, value }) =>
    !asked || reports.some(({ components }) => components.some(part => known(value(part))));
  return Object.entries(METRICS).filter(([, metric]) => there(metric))
    .map(([name, { label }]) => [name, typeof label === "function" ? label(reports) : label]);
}

/** What the shares that cuts kept are of, "energy" or "effect"; "share" where they differ. */
export function measure(reports) {
  const found = reports.filter(({ totals }) => known(totals?.retained))
    .map(({ totals }) => (totals.of === "effect" ? "effect" : "energy"));
  const [first = "energy"] = found;
  return found.every(one => one === first) ? first : "share";
}

/**
 * Adds the server's summary ({ size, rank90, rank99 }, a list each, null for a component of rank 0)
 * to a report's components, and `share`: ‖ΔW‖ divided by the root mean square over all others.
 */
export function withSummary(report, summary) {
  const sizes = summary.size.filter(known);
  const squares = sizes.reduce((sum, size) => sum + size * size, 0);
  const mean = Math.sqrt(squares / Math.max(1, sizes.length));
  report.components.forEach((part, i) => {
    for (const key of ["size", "rank90", "rank99"]) part[key] = summary[key][i];
    part.share = mean > 0 && known(part.size) ? part.size / mean : null;
  });
}

/** Whether nothing of a cell's components is in the file: all of them are of rank 0. */
export function leftOut(cell) {
  return Boolean(cell?.parts.length) && cell.parts.every(part => part.rank === 0);
}

function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function combined(parts, metric) {
  const values = parts.map(metric.value).filter(known);
  if (!values.length) return null;
  const sum = values.reduce((a, b) => a + b);
  return metric.sum ? sum : sum / values.length;
}

/**
 * { rows: [{ name, section, cells }], columns: [name] }. A cell is null where the network has no
 * such layer in the adapter, else { value, parts }; value is null where it is not known, and the
 * mean (of megabytes and effects the sum) where several components share the cell.
 * blocks: one row a block instead of one a layer.
 */
export function grid(report, metric, { blocks = false } = {}) {
  const found = METRICS[metric];
  const key = line => (blocks ? line.block : line.row);
  const rows = new Map();
  for (const line of report.rows) {
    if (!rows.has(key(line))) rows.set(key(line), { section: line.section, cells: new Map() });
  }
  for (const part of report.components) {
    const { cells } = rows.get(key(part));
    if (!cells.has(part.column)) cells.set(part.column, []);
    cells.get(part.column).push(part);
  }
  const lines = [...rows].map(([name, { section, cells }]) => ({
    name,
    section,
    cells: report.columns.map(column =>
      cells.has(column)
        ? { value: combined(cells.get(column), found), parts: cells.get(column) }
        : null),
  }));
  return { rows: lines, columns: report.columns };
}

/** Every value that a grid knows. */
export function values(found) {
  return found.rows.flatMap(row => row.cells.map(cell => cell?.value)).filter(known);
}

/** The second grid minus the first, where both know a value; rows and columns of both. */
export function difference(first, second) {
  const columns = [...new Set([...first.columns, ...second.columns])];
  const names = new Map();
  for (const row of [...first.rows, ...second.rows]) names.set(row.name, row.section);
  const [firsts, seconds] = [first, second].map(found => new Map(found.rows.map(row => [row.name, row])));
  const cell = (found, rows, name, column) => rows.get(name)?.cells[found.columns.indexOf(column)] ?? null;
  const rows = [...names].map(([name, section]) => ({
    name,
    section,
    cells: columns.map(column => {
      const [a, b] = [cell(first, firsts, name, column), cell(second, seconds, name, column)];
      if (!a && !b) return null;
      const both = known(a?.value) && known(b?.value);
      return { value: both ? b.value - a.value : null, parts: [...(a?.parts ?? []), ...(b?.parts ?? [])] };
    }),
  }));
  return { rows, columns };
}

/** A stranger's text without control characters and marks that turn the direction of what follows. */
export function plain(text, longest = 120) {
  const shown = String(text).slice(0, 2 * longest).replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, "·");
  return shown.length > longest || String(text).length > 2 * longest
    ? `${shown.slice(0, longest - 1)}…` : shown;
}

/** A number as a cell or a legend shows it. */
export function short(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  if (size >= 10) return value.toFixed(1);
  if (size < 1e-4) return value.toExponential(1);
  return value.toPrecision(2);
}

/** The report as CSV, every component a line; text in quotes, and nothing that a table runs. */
export function csv(report) {
  const columns = [
    "name", "row", "column", "rank", "before", "shape", "alpha", "nu", "bytes", "effect",
    "retained", "size", "rank90", "rank99",
  ];
  const cell = value => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = Array.isArray(value) ? value.join("×") : String(value);
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return `"${safe.replaceAll('"', '""')}"`;
  };
  const lines = report.components.map(part => columns.map(name => cell(part[name])).join(","));
  return [columns.join(","), ...lines].join("\r\n") + "\r\n";
}
