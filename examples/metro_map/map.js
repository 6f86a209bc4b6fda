// The map beside the chat: draws the network, answers the client tool, shows routes and stations.

const SVG = "http://www.w3.org/2000/svg";
const STYLE = `
  @media (min-width: 68rem) {
    body { display: grid; grid-template-columns: minmax(0, 1fr) 25rem; }
  }
  .metro { border-left: 1px solid var(--line); background: var(--surface-secondary);
    padding: 1rem 1.25rem; font-size: 0.9rem; height: 100dvh; overflow: auto; }
  @media (max-width: 68rem) {
    body { display: grid; grid-template-rows: minmax(0, 1fr) 17rem; height: 100dvh; }
    chatkit-trio.whole-page { height: auto; min-height: 0; }
    .metro { height: auto; border: 0; border-top: 1px solid var(--line); }
    .metro svg { max-height: 11rem; }
  }
  .metro h2 { font-size: 1rem; margin: 0.25rem 0; }
  .metro p { color: var(--text-secondary); margin: 0 0 0.5rem; min-height: 2.6em; }
  .metro svg { width: 100%; height: auto; }
  .metro path { fill: none; stroke-width: 7; stroke-linejoin: round; stroke-linecap: round; }
  .metro .route { stroke: var(--text); stroke-width: 3; stroke-dasharray: 2 7; }
  .metro .station { cursor: pointer; outline: none; }
  .metro circle { fill: var(--surface); stroke: var(--text); stroke-width: 2.5; }
  .metro .station[aria-pressed="true"] circle { fill: var(--accent); }
  .metro .station:focus-visible circle { stroke: var(--accent); stroke-width: 5; }
  .metro text { fill: var(--text); font: 500 13px system-ui, sans-serif; paint-order: stroke;
    stroke: var(--surface-secondary); stroke-width: 4px; }`;

const network = await (await fetch("metro.json")).json();
const stations = new Map(network.stations.map((station) => [station.id, station]));
const selected = new Set();
const marks = new Map();

function element(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function lineThrough(ids) {
  const points = ids.map((id) => stations.get(id)).map(({ x, y }) => `${x},${y}`);
  return `M${points.join("L")}`;
}

function toggle(id) {
  if (!selected.delete(id)) selected.add(id);
  marks.get(id).setAttribute("aria-pressed", String(selected.has(id)));
  const names = [...selected].map((each) => stations.get(each).name);
  note.textContent = names.length ? `Selected: ${names.join(", ")}` : HINT;
}

function stationMark({ id, name, x, y }) {
  const mark = element(
    "g",
    { class: "station", role: "button", tabindex: "0", "aria-pressed": "false", "aria-label": name },
    element("circle", { cx: x, cy: y, r: 7 }),
    element("text", { x: x + 11, y: y > 150 ? y + 20 : y - 9 }, name),
  );
  mark.addEventListener("click", () => toggle(id));
  mark.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      toggle(id);
    }
  });
  marks.set(id, mark);
  return mark;
}

const HINT = "Select stations here, and ask about “these”.";
const heading = document.createElement("h2");
heading.textContent = "The network";
const note = document.createElement("p");
note.textContent = HINT;
note.setAttribute("role", "status");
const route = element("path", { class: "route" });
const drawing = element(
  "svg",
  { viewBox: "15 5 440 350", role: "group", "aria-label": "Metro map" },
  ...network.lines.map((line) => element("path", { d: lineThrough(line.stations), stroke: line.color })),
  route,
  ...network.stations.map(stationMark),
);
const panel = document.createElement("aside");
panel.className = "metro";
panel.append(heading, note, drawing);
const style = document.createElement("style");
style.textContent = STYLE;
document.head.append(style);
document.body.append(panel);

(window.chatkitClientTools ??= {}).get_selected_stations = () => ({ stations: [...selected] });

window.chatkitEntities = {
  async onTagSearch(query) {
    const isMeant = ({ name }) => name.toLowerCase().startsWith(query.toLowerCase());
    const tag = ({ id, name, note: data }) => ({ id, title: name, icon: "map-pin", interactive: true, data: { note: data } });
    return network.stations.filter(isMeant).map(tag);
  },
};

(window.chatkitEffects ??= {}).show_route = (data) => {
  route.setAttribute("d", lineThrough(data.stations));
  const names = [data.stations[0], data.stations.at(-1)].map((id) => stations.get(id).name);
  note.textContent = `The way from ${names[0]} to ${names[1]}`;
};

window.addEventListener("chatkit.entity", ({ detail }) => {
  const station = stations.get(detail.entity.id);
  if (station) note.textContent = `${station.name}: ${station.note}`;
  marks.get(detail.entity.id)?.focus();
});
