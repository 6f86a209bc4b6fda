// Widget properties to CSS: the tokens a server may use, and what they mean here. Pure.

const TEXT_COLORS = {
  prose: "--text", primary: "--text", emphasis: "--ink", secondary: "--text-secondary",
  tertiary: "--text-tertiary", success: "--success", warning: "--warning", danger: "--danger",
};
const SURFACES = {
  surface: "--surface", "surface-secondary": "--surface-secondary",
  "surface-tertiary": "--surface-tertiary", "surface-elevated": "--surface-elevated",
  "surface-elevated-secondary": "--surface-elevated-secondary",
};
const BORDERS = { default: "--line", subtle: "--line-subtle", strong: "--line-strong" };
const CHART_COLORS = {
  blue: "blue-400", purple: "purple-400", orange: "orange-400", green: "green-400",
  red: "red-400", yellow: "yellow-400", pink: "pink-400",
};

const HUES = { gray: 250, red: 25, orange: 55, yellow: 90, green: 150, blue: 255, purple: 300, pink: 350 };
const PRIMITIVE = /^(gray|red|orange|yellow|green|blue|purple|pink)-(\d{1,4})$/;

// The palette is computed: lightness falls with the step, chroma peaks in the middle.
function primitive(hue, step) {
  const depth = Math.min(Math.max(step, 0), 1000) / 1000;
  const lightness = 0.985 - 0.78 * depth ** 0.9;
  const chroma = hue === "gray" ? 0.006 : 0.21 * Math.sin(Math.PI * Math.min(depth * 0.95 + 0.03, 1));
  return `oklch(${lightness.toFixed(3)} ${chroma.toFixed(3)} ${HUES[hue]})`;
}

function namedColor(value, tokens) {
  if (Object.hasOwn(tokens, value)) return `var(${tokens[value]})`;
  const match = PRIMITIVE.exec(value);
  if (match) return primitive(match[1], Number(match[2]));
  return CSS.supports("color", value) ? value : undefined;
}

function color(value, tokens) {
  if (value == null) return undefined;
  if (typeof value === "string") return namedColor(value, tokens);
  const light = namedColor(value.light ?? "", tokens);
  const dark = namedColor(value.dark ?? "", tokens);
  return light && dark ? `light-dark(${light}, ${dark})` : light ?? dark;
}

export const textColor = (value) => color(value, TEXT_COLORS);
export const backgroundColor = (value) => color(value, SURFACES);
export const borderColor = (value) => color(value, BORDERS);

const SERIES = ["blue", "orange", "green", "purple", "red", "yellow", "pink"];

/** The color of a chart's series: its own, or the next in line. */
export function seriesColor(value, index) {
  const named = typeof value === "string" ? CHART_COLORS[value] ?? value : value;
  return color(named, {}) ?? color(CHART_COLORS[SERIES[index % SERIES.length]], {});
}

// As in the style sheet: a rem is the theme's, not that of the page around.
function rem(count) {
  return `calc(${count} * var(--rem))`;
}

/** A spacing unit is a quarter of a rem; strings are CSS. */
export function spacing(value) {
  if (value == null) return undefined;
  const units = Number(value);
  return Number.isFinite(units) && value !== "" ? rem(units * 0.25) : String(value);
}

export function length(value) {
  return typeof value === "number" ? `${value}px` : value ?? undefined;
}

const SIDES = ["top", "right", "bottom", "left"];

function axisOf(side) {
  return side === "top" || side === "bottom" ? "y" : "x";
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}

// { x: 2, top: 1 } to { paddingTop, paddingLeft, ... }
function sides(value, name, convert, suffix = "") {
  const entries = SIDES.map((side) => [
    `${name}${capital(side)}${suffix}`,
    convert(value[side] ?? value[axisOf(side)]),
  ]);
  return Object.fromEntries(entries.filter(([, each]) => each !== undefined));
}

export function spacingStyle(name, value) {
  if (value == null) return {};
  return typeof value === "object" ? sides(value, name, spacing) : { [name]: spacing(value) };
}

function borderLine(value) {
  if (value == null) return undefined;
  if (typeof value === "number") return `${value}px solid var(--line)`;
  return `${value.size ?? 1}px ${value.style ?? "solid"} ${borderColor(value.color) ?? "var(--line)"}`;
}

export function borderStyle(value) {
  if (value == null) return {};
  const whole = typeof value === "number" || "size" in value;
  return whole ? { border: borderLine(value) } : sides(value, "border", borderLine);
}

const RADII = {
  "2xs": "2px", xs: "4px", sm: "6px", md: "8px", lg: "10px", xl: "12px", "2xl": "16px",
  "3xl": "20px", "4xl": "24px", full: "9999px", "100%": "100%", none: "0",
};

export const radius = (value) => RADII[value];

/** Widths, heights and their bounds; the short forms set both. */
export function sizeStyle(node) {
  return {
    width: length(node.width ?? node.size),
    height: length(node.height ?? node.size),
    minWidth: length(node.minWidth ?? node.minSize),
    minHeight: length(node.minHeight ?? node.minSize),
    maxWidth: length(node.maxWidth ?? node.maxSize),
    maxHeight: length(node.maxHeight ?? node.maxSize),
    aspectRatio: node.aspectRatio,
    flex: node.flex,
  };
}

const ALIGN = { start: "flex-start", end: "flex-end" };
const JUSTIFY = { ...ALIGN, between: "space-between", around: "space-around", evenly: "space-evenly" };

/** The style of a container: how it lays its children out, its bounds, edges and color. */
export function boxStyle(node, direction) {
  return {
    flexDirection: direction === "row" ? "row" : "column",
    alignItems: ALIGN[node.align] ?? node.align,
    justifyContent: JUSTIFY[node.justify] ?? node.justify,
    flexWrap: node.wrap,
    gap: spacing(node.gap),
    borderRadius: radius(node.radius),
    backgroundColor: backgroundColor(node.background),
    ...sizeStyle(node),
    ...spacingStyle("padding", node.padding),
    ...spacingStyle("margin", node.margin),
    ...borderStyle(node.border),
  };
}

const TEXT_SIZES = { xs: rem(0.75), sm: rem(0.8438), md: rem(0.9375), lg: rem(1.0625), xl: rem(1.25) };
const TITLE_SIZES = {
  sm: rem(1), md: rem(1.125), lg: rem(1.25), xl: rem(1.5), "2xl": rem(1.75),
  "3xl": rem(2.125), "4xl": rem(2.5), "5xl": rem(3),
};
const CAPTION_SIZES = { sm: rem(0.7188), md: rem(0.7812), lg: rem(0.8438) };
const WEIGHTS = { normal: 400, medium: 500, semibold: 600, bold: 700 };
const SIZES = { Title: TITLE_SIZES, Caption: CAPTION_SIZES, Text: TEXT_SIZES, Label: TEXT_SIZES };

/** The style of Text, Title, Caption and Label. */
export function textStyle(node) {
  const lines = node.truncate ? 1 : node.maxLines;
  return {
    color: textColor(node.color),
    fontSize: SIZES[node.type]?.[node.size],
    fontWeight: WEIGHTS[node.weight],
    textAlign: node.textAlign,
    width: length(node.width),
    fontStyle: node.italic ? "italic" : undefined,
    textDecoration: node.lineThrough ? "line-through" : undefined,
    minHeight: node.minLines ? `${node.minLines}lh` : undefined,
    ...(lines ? { "--lines": lines } : {}),
  };
}

const CONTROL_HEIGHTS = {
  "3xs": 1.375, "2xs": 1.5, xs: 1.625, sm: 1.875, md: 2.125, lg: 2.375, xl: 2.625, "2xl": 2.875, "3xl": 3.125,
};

export function controlStyle(node) {
  const height = CONTROL_HEIGHTS[node.size];
  return {
    ...(height ? { "--control": rem(height) } : {}),
    ...(node.gutterSize ? { paddingInline: spacing(GUTTERS[node.gutterSize]) } : {}),
  };
}

const GUTTERS = { "2xs": 1, xs: 1.5, sm: 2, md: 2.5, lg: 3, xl: 4 };
const ICON_SIZES = { xs: 12, sm: 14, md: 18, lg: 20, xl: 24, "2xl": 30, "3xl": 36 };

/** The size of an icon in pixels. */
export const iconSize = (value, fallback = "md") => ICON_SIZES[value] ?? ICON_SIZES[fallback];
