// Bar, area and line charts as inline SVG, with the same data as a table for screen readers.

import { html, useEffect, useRef, useState } from "../vendor/vendor.js";
import { locale, strings } from "./strings.js";
import { curve, stackSeries, ticks, verticalScale } from "./chart_scale.js";
import { length, seriesColor, sizeStyle } from "./widget_style.js";

const HEIGHT = 220; // pixels, without a height of its own
const MARGIN = { top: 10, right: 8, bottom: 26, left: 8 };
const DIGIT = 7.2; // pixels that a digit of an axis label takes

const numberText = (value) => value.toLocaleString(locale(), { notation: "compact", maximumFractionDigits: 2 });

const cellText = (value) => (typeof value === "number" ? value.toLocaleString(locale(), { maximumFractionDigits: 20 }) : value);

function axisOf(node) {
  return typeof node.xAxis === "string" ? { dataKey: node.xAxis } : node.xAxis ?? {};
}

function useSize(element) {
  const [size, setSize] = useState({ width: 0, height: 0 });
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => {
      const { width, height } = entry.contentRect;
      setSize({ width, height });
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return size;
}

/** Everything the marks need to know: spans, scale, bands and the plot's bounds. */
function layOut(node, { width, height }) {
  const spans = stackSeries(node.data, node.series);
  const values = spans.flat(2);
  const marks = ticks(Math.min(0, ...values), Math.max(0, ...values));
  const labels = marks.map((each) => numberText(each));
  const left = node.showYAxis ? Math.max(...labels.map((each) => each.length)) * DIGIT + 12 : MARGIN.left;
  const bottom = axisOf(node).hide ? MARGIN.top : MARGIN.bottom;
  const plot = {
    left,
    top: MARGIN.top,
    width: Math.max(width - left - MARGIN.right, 1),
    height: Math.max(height - MARGIN.top - bottom, 1),
  };
  const y = verticalScale([marks[0], marks.at(-1)], plot.height);
  const band = plot.width / Math.max(node.data.length, 1);
  const x = (index) => band * (index + 0.5);
  return { spans, marks, labels, plot, x, y, band, zero: y(0) };
}

// Bars that stack share a place in the band; each other bar has its own.
function barPlaces(series) {
  const places = new Map();
  for (const each of series) {
    if (each.type !== "bar") continue;
    const place = each.stack ?? each;
    if (!places.has(place)) places.set(place, places.size);
  }
  return { indexOf: (each) => places.get(each.stack ?? each), count: places.size };
}

function Bars({ node, each, index, layout, color }) {
  const { spans, y, band } = layout;
  const places = barPlaces(node.series);
  const gap = node.barGap ?? 4;
  const inner = Math.min(band - (node.barCategoryGap ?? band * 0.3), places.count * 56);
  const thickness = Math.max((inner - gap * (places.count - 1)) / places.count, 1);
  return spans[index].map(([from, to], row) => {
    const left = layout.x(row) - inner / 2 + places.indexOf(each) * (thickness + gap);
    const top = Math.min(y(from), y(to));
    const height = Math.abs(y(from) - y(to));
    return html`<rect key=${row} x=${left} y=${top} width=${thickness} height=${height}
      rx=${Math.min(3, thickness / 2, height / 2)} fill=${color} />`;
  });
}

function pointsOf(spans, layout, end) {
  return spans.map((span, row) => [layout.x(row), layout.y(span[end])]);
}

function Line({ each, index, layout, color }) {
  const points = pointsOf(layout.spans[index], layout, 1);
  return html`<path d=${curve(points, each.curveType)} fill="none" stroke=${color}
    stroke-width="2" stroke-linejoin="round" stroke-linecap="round" />`;
}

function Area(props) {
  const { each, index, layout, color } = props;
  const top = curve(pointsOf(layout.spans[index], layout, 1), each.curveType);
  const bottom = curve(pointsOf(layout.spans[index], layout, 0).reverse(), each.curveType);
  return html`<path d=${`${top}${bottom.replace("M", "L")}Z`} fill=${color} opacity="0.2" /><${Line} ...${props} />`;
}

const kinds = { bar: Bars, line: Line, area: Area };

function YAxis({ node, layout }) {
  return layout.marks.map((mark, index) => html`<g key=${mark}>
    <line x1="0" x2=${layout.plot.width} y1=${layout.y(mark)} y2=${layout.y(mark)}
      class=${mark === 0 ? "chart-zero" : "chart-grid"} />
    ${node.showYAxis ? html`<text x="-8" y=${layout.y(mark)} dy="0.32em" text-anchor="end">
      ${layout.labels[index]}</text>` : null}</g>`);
}

function xLabel(node, row) {
  const { dataKey, labels } = axisOf(node);
  const value = String(row[dataKey] ?? "");
  return labels?.[value] ?? value;
}

function XAxis({ node, layout }) {
  if (axisOf(node).hide) return null;
  const longest = Math.max(...node.data.map((row) => xLabel(node, row).length), 1);
  const every = Math.max(1, Math.ceil((longest * DIGIT + 8) / layout.band)); // labels never overlap
  return node.data.map((row, index) => (index % every ? null : html`
    <text key=${index} x=${layout.x(index)} y=${layout.plot.height + 18} text-anchor="middle">
      ${xLabel(node, row)}</text>`));
}

function Legend({ node }) {
  if (!node.showLegend) return null;
  return html`<ul class="chart-legend" aria-hidden="true">${node.series.map((each, index) => html`
    <li key=${each.dataKey}><i style=${{ backgroundColor: seriesColor(each.color, index) }}></i>
      ${each.label ?? each.dataKey}</li>`)}</ul>`;
}

function Tooltip({ node, layout, row }) {
  if (row === null) return null;
  const left = layout.plot.left + layout.x(row);
  const side = left > layout.plot.width * 0.6 ? "is-left" : "";
  return html`<div class=${`chart-tooltip ${side}`} style=${{ left: `${left}px` }} aria-hidden="true">
    <strong>${xLabel(node, node.data[row])}</strong>
    ${node.series.map((each, index) => html`<span key=${each.dataKey}>
      <i style=${{ backgroundColor: seriesColor(each.color, index) }}></i>${each.label ?? each.dataKey}
      <b>${cellText(node.data[row][each.dataKey])}</b></span>`)}</div>`;
}

function DataTable({ node }) {
  return html`<table class="visually-hidden"><caption>${strings.widget.chart}</caption>
    <thead><tr><th scope="col">${axisOf(node).dataKey}</th>${node.series.map((each) => html`
      <th key=${each.dataKey} scope="col">${each.label ?? each.dataKey}</th>`)}</tr></thead>
    <tbody>${node.data.map((row, index) => html`<tr key=${index}>
      <th scope="row">${xLabel(node, row)}</th>${node.series.map((each) => html`
        <td key=${each.dataKey}>${cellText(row[each.dataKey])}</td>`)}</tr>`)}</tbody></table>`;
}

function Plot({ node, size }) {
  const [row, setRow] = useState(null);
  const layout = layOut(node, size);
  const { plot, band } = layout;
  const onMove = (event) => {
    const left = event.clientX - event.currentTarget.getBoundingClientRect().left - plot.left;
    const index = Math.floor(left / band);
    setRow(index >= 0 && index < node.data.length ? index : null);
  };
  const hover = node.showTooltip === false ? {} : { onPointerMove: onMove, onPointerLeave: () => setRow(null) };
  return html`<svg width=${size.width} height=${size.height} aria-hidden="true" ...${hover}>
      <g transform=${`translate(${plot.left} ${plot.top})`}>
        ${row === null ? null : html`<rect class="chart-hover" x=${band * row} y="0" width=${band} height=${plot.height} />`}
        <${YAxis} node=${node} layout=${layout} />
        ${node.series.map((each, index) => html`<${kinds[each.type] ?? Line} key=${each.dataKey}
          node=${node} each=${each} index=${index} layout=${layout} color=${seriesColor(each.color, index)} />`)}
        <${XAxis} node=${node} layout=${layout} />
      </g>
    </svg>
    <${Tooltip} node=${node} layout=${layout} row=${row} />`;
}

export function Chart({ node }) {
  const area = useRef(null);
  const size = useSize(area);
  const given = sizeStyle(node);
  const style = { ...given, height: given.height ?? (given.aspectRatio ? undefined : length(HEIGHT)) };
  return html`<figure class="chart" style=${{ flex: given.flex }}>
    <div ref=${area} class="chart-plot" style=${style}>
      ${size.width > 0 ? html`<${Plot} node=${node} size=${size} />` : null}</div>
    <${Legend} node=${node} /><${DataTable} node=${node} />
  </figure>`;
}
