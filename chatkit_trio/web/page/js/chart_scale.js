// The geometry of charts: scales, ticks, stacks and curves. Pure.

/** Round values from about `low` to about `high`, at most `count` + 1 of them. */
export function ticks(low, high, count = 4) {
  const span = high - low || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const first = Math.floor(low / step);
  const last = Math.ceil(high / step);
  return Array.from({ length: last - first + 1 }, (_, index) => roundOff((first + index) * step));
}

const roundOff = (value) => Number(value.toPrecision(12));

const numberOf = (row, key) => Number(row[key]) || 0;

/**
 * Gives each series its spans: for each row where its mark starts and ends.
 * Series that share a stack start where the one before them ended, positive and negative apart.
 */
export function stackSeries(data, series) {
  const ends = new Map();
  return series.map((each) => data.map((row, index) => {
    const value = numberOf(row, each.dataKey);
    if (each.stack == null) return [0, value];
    const key = `${each.stack}/${index}/${value < 0}`;
    const from = ends.get(key) ?? 0;
    ends.set(key, from + value);
    return [from, from + value];
  }));
}

/** A function from values to pixels, top down. */
export function verticalScale([low, high], height) {
  return (value) => height - ((value - low) / (high - low || 1)) * height;
}

/** The path through points, after the series' kind of curve. */
export function curve(points, type = "linear") {
  if (points.length === 0) return "";
  if (type?.startsWith("step")) return stepPath(points, type);
  if (type == null || type.startsWith("linear") || points.length < 3) return linearPath(points);
  return smoothPath(points);
}

const at = ([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`;

function linearPath(points) {
  return `M${points.map(at).join("L")}`;
}

function stepPath(points, type) {
  const share = { stepBefore: 0, stepAfter: 1 }[type] ?? 0.5;
  const corners = points.slice(1).flatMap((point, index) => {
    const [x, y] = points[index];
    const turn = x + (point[0] - x) * share;
    return [[turn, y], [turn, point[1]], point];
  });
  return linearPath([points[0], ...corners]);
}

// Cubic pieces with slopes that never overshoot the points (all the smooth kinds are drawn so).
function smoothPath(points) {
  const slopes = monotoneSlopes(points);
  const pieces = points.slice(1).map((point, index) => {
    const [x, y] = points[index];
    const third = (point[0] - x) / 3;
    return `C${at([x + third, y + slopes[index] * third])} ${at([point[0] - third, point[1] - slopes[index + 1] * third])} ${at(point)}`;
  });
  return `M${at(points[0])}${pieces.join("")}`;
}

function monotoneSlopes(points) {
  const secants = points.slice(1).map(([x, y], index) => (y - points[index][1]) / (x - points[index][0]));
  return points.map((_, index) => {
    const before = secants[index - 1] ?? secants[index];
    const after = secants[index] ?? before;
    if (before * after <= 0) return 0;
    return (2 * before * after) / (before + after);
  });
}
