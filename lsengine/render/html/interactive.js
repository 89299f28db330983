"use strict";
/* The interactive page.  All numbers, and all words on scales, come from Python; here they are
   put on the screen.  Heights are shares of the scale, 0 to 1, NaN where there is none. */

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const memory = "lsengine:" + location.pathname;
const state = recall();
const panels = [];
const VIEW = Math.PI / 4, ROOM = [0.88, 0.96];  // the viewer's angle of view; share of a scene that a landscape has
const PIN = 1.02;  // the height to which pins go: above every surface

function numbers(text, type) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new { f8: Float64Array, f4: Float32Array, u1: Uint8Array }[type](bytes.buffer);
}

function rows(flat, width) {
  const made = [];
  for (let i = 0; i < flat.length; i += width) made.push(Array.from(flat.subarray(i, i + width)));
  return made;
}

/* A page that reloads itself while a run writes keeps what its reader has chosen. */
function recall() {
  let kept = {};
  try { kept = JSON.parse(sessionStorage.getItem(memory)) || {}; } catch { /* none is kept */ }
  const start = { quantity: data.start, scale: null, lines: true, path: true, camera: null };
  const chosen = Object.assign(start, kept);
  if (!data.quantities.some((q) => q.name === chosen.quantity)) chosen.quantity = data.start;
  return chosen;
}

function remember() {
  try { sessionStorage.setItem(memory, JSON.stringify(state)); } catch { /* then it is not */ }
}

const quantity = () => data.quantities.find((q) => q.name === state.quantity);
const scaleName = () => (quantity().scales[state.scale] ? state.scale : quantity().auto);
const scale = () => quantity().scales[scaleName()];

async function loadViewer() {
  const packed = Uint8Array.from(atob(find("viewer").textContent), (c) => c.charCodeAt(0));
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser is too old for the page (it needs one of 2023 or newer)");
  }
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
}

function traces(panel) {
  const s = panel.surface, here = scale();
  const heights = rows(numbers(here.heights[panel.index], "f4"), s.alpha.length);
  const look = {
    type: "surface", x: s.alpha, y: s.beta, cmin: 0, cmax: 1, colorscale: data.colors,
    showscale: false, hoverinfo: "none", connectgaps: false,
    lighting: { ambient: 0.62, diffuse: 0.42, specular: 0.1, roughness: 0.6, fresnel: 0.02 },
    lightposition: { x: -4000, y: -6000, z: 9000 },
  };
  const quiet = { highlight: false };
  look.contours = { x: quiet, y: quiet, z: quiet };
  const made = [{ ...look, z: heights, name: "cells" }];
  if (state.lines && here.lines.length) made.push(contours(s, heights, here.lines));
  if (s.missing) {  // the nearest cell's value stands in, lighter, a little below
    const filled = rows(numbers(here.filled[panel.index], "f4"), s.alpha.length);
    made.push({ ...look, z: filled.map((r) => r.map((v) => v - 0.004)),
      colorscale: data.pale, name: "not computed yet" });
  }
  const points = (list, height, marker, name, extra) => list.length && made.push({
    type: "scatter3d", mode: "markers", name, hoverinfo: "none", showlegend: false,
    x: list.map((p) => s.alpha[p[1]]), y: list.map((p) => s.beta[p[0]]),
    z: list.map((p) => height(p)), marker, ...extra });
  const lone = [];
  heights.forEach((row, b) => row.forEach((v, a) => {
    if (Number.isFinite(v) && !joined(heights, b, a)) lone.push([b, a]);
  }));
  // A partial grid has many: they must not cover what stands in between them.
  const small = s.missing ? 2 : 4;
  points(lone, (p) => heights[p[0]][p[1]], { size: small, color: lone.map((p) => heights[p[0]][p[1]]),
    cmin: 0, cmax: 1, colorscale: data.colors }, "lone cells");
  const failed = bad(panel);
  if (failed.length) made.push(crosses(s, failed));
  if (s.path && state.path) made.push(...path(s, here.path[panel.index]));
  if (s.marks.length) made.push(...marks(s, here.marks[panel.index]));
  return made;
}

/* Crosses on the floor, as lines: the viewer's own are letters that not every machine has. */
function crosses(s, cells) {
  const line = { type: "scatter3d", mode: "lines", name: "no finite value", hoverinfo: "none",
    showlegend: false, line: { color: data.style.bad, width: 3 }, x: [], y: [], z: [] };
  const half = (range, n) => 0.22 * (range[1] - range[0]) / Math.max(n - 1, 8);
  const across = half(s.range[0], s.alpha.length), along = half(s.range[1], s.beta.length);
  for (const [b, a] of cells) {
    for (const sign of [1, -1]) {
      for (const end of [1, -1]) {
        line.x.push(s.alpha[a] + end * across);
        line.y.push(s.beta[b] + end * sign * along);
        line.z.push(0);
      }
      line.x.push(null); line.y.push(null); line.z.push(null);
    }
  }
  return line;
}

/* Lines of equal height, square by square between four cells that all have values.  (The
   viewer's own need even levels, and take minutes beside cells without a value.) */
function contours(s, z, levels) {
  const line = { type: "scatter3d", mode: "lines", name: "lines", hoverinfo: "skip",
    showlegend: false, line: { color: "#303030", width: 2 }, x: [], y: [], z: [] };
  for (let b = 0; b + 1 < z.length; b++) {
    for (let a = 0; a + 1 < z[b].length; a++) {
      const ring = [[b, a], [b, a + 1], [b + 1, a + 1], [b + 1, a]];
      if (ring.some(([i, j]) => !Number.isFinite(z[i][j]))) continue;
      for (const level of levels) {
        const cuts = [];
        ring.forEach(([i, j], k) => {
          const [m, n] = ring[(k + 1) % 4];
          if (z[i][j] < level === z[m][n] < level) return;
          const share = (level - z[i][j]) / (z[m][n] - z[i][j]);
          cuts.push([s.alpha[j] + share * (s.alpha[n] - s.alpha[j]),
            s.beta[i] + share * (s.beta[m] - s.beta[i])]);
        });
        for (let k = 0; k + 1 < cuts.length; k += 2) {
          for (const [x, y] of [cuts[k], cuts[k + 1]]) {
            line.x.push(x); line.y.push(y); line.z.push(level + 0.003);
          }
          line.x.push(null); line.y.push(null); line.z.push(null);
        }
      }
    }
  }
  return line;
}

function joined(z, b, a) {
  const there = (i, j) => z[i] !== undefined && Number.isFinite(z[i][j]);
  return [[-1, -1], [-1, 1], [1, -1], [1, 1]].some(([i, j]) =>
    there(b + i, a) && there(b, a + j) && there(b + i, a + j));
}

/* Cells that were tried, and of which this quantity is no finite number. */
function bad(panel) {
  const found = [], values = panel.values[state.quantity], width = panel.surface.alpha.length;
  panel.status.forEach((s, i) => {
    const fails = s === 2 || (s === 1 && !Number.isFinite(values[i]));
    if (fails) found.push([Math.floor(i / width), i % width]);
  });
  return found;
}

function path(s, z) {
  const common = { type: "scatter3d", hoverinfo: "none", showlegend: false, x: s.path.alpha,
    y: s.path.beta, z };
  const last = s.path.alpha.length - 1;
  return [
    { ...common, mode: "lines", name: "way", line: { color: data.style.ink, width: 5 } },
    { ...common, mode: "markers", name: "trajectory", marker: {
      size: s.path.alpha.map((_, i) => (i === last ? 7 : 4)),
      symbol: s.path.alpha.map((_, i) => (i === last ? "diamond" : "circle")),
      color: s.path.drops.map((d) => (d ? "#e3242b" : data.style.ink)),
      line: { color: data.style.ground, width: 1 } } },
  ];
}

/* Each stands on the surface and has a pin up to PIN, where its name is: what is in front of the
   place hides the mark and the lower part of its pin, as it must, and never the name. */
function marks(s, z) {
  const common = { type: "scatter3d", hoverinfo: "none", showlegend: false };
  const pins = { ...common, mode: "lines", name: "pins", hoverinfo: "skip",
    line: { color: data.style.ink, width: 2 }, x: [], y: [], z: [] };
  s.marks.forEach((m, i) => {
    if (z[i] === null) return;
    pins.x.push(m.alpha, m.alpha, null);
    pins.y.push(m.beta, m.beta, null);
    pins.z.push(z[i], PIN, null);
  });
  return [pins, { ...common, mode: "markers", name: "marks", x: s.marks.map((m) => m.alpha),
    y: s.marks.map((m) => m.beta), z, marker: { size: 7, symbol: s.marks.map((m) => m.symbol),
      color: data.style.ink, line: { color: data.style.ground, width: 1 } } }];
}

function names(s, z) {
  return s.marks.flatMap((m, i) => (z[i] === null ? [] : [{ x: m.alpha, y: m.beta, z: PIN,
    text: m.name, showarrow: false, yanchor: "bottom", borderpad: 1, bgcolor: data.style.ground,
    opacity: 0.85, font: { color: data.style.ink, size: 13 } }]));
}

function layout(panel) {
  const s = panel.surface, here = scale();
  const above = here.ticks.filter((t) => t[0] > 0.05);  // at the floor are numbers of alpha and beta
  const axis = (title) => ({ title: { text: title }, color: data.style.ink, showspikes: false,
    gridcolor: data.style.faint, zeroline: false, backgroundcolor: data.style.ground });
  return {
    paper_bgcolor: data.style.ground, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false,
    font: { family: data.style.font, color: data.style.ink }, hovermode: "closest", uirevision: 1,
    scene: {
      annotations: names(s, here.marks[panel.index]),
      camera: state.camera, dragmode: "turntable", aspectmode: "manual",
      aspectratio: { x: 1.25 * s.base[0], y: 1.25 * s.base[1], z: 1.25 * data.relief },
      xaxis: { ...axis(data.axes[0]), range: s.range[0] },
      yaxis: { ...axis(data.axes[1]), range: s.range[1] },
      zaxis: { ...axis(""), range: [-0.02, 1.02], tickmode: "array",
        tickvals: above.map((t) => t[0]), ticktext: above.map((t) => t[1]) },
    },
  };
}

function draw() {
  remember();
  hideTip();
  drawBar();
  drawNotes();
  const config = { responsive: true, displaylogo: false, scrollZoom: true,
    modeBarButtons: [["toImage"]], toImageButtonOptions: { scale: 2, filename: document.title } };
  return Promise.all(panels.map((p) => Plotly.react(p.scene, traces(p), layout(p), config)));
}

function drawBar() {
  const here = scale();
  find("ramp").style.background =
    "linear-gradient(to top, " + data.colors.map((c) => c[1]).join(",") + ")";
  find("bar-name").textContent = quantity().label;
  find("ticks").replaceChildren(...here.ticks.map(([at, text]) => {
    const made = document.createElement("span");
    made.textContent = "– " + text;
    made.style.bottom = 100 * at + "%";
    return made;
  }));
}

function drawNotes() {
  const lines = data.said === null ? scale().notes.concat(data.notes) : [data.said];
  find("notes").replaceChildren(...lines.map((line) => {
    const made = document.createElement("p");
    made.textContent = line;
    return made;
  }));
}

/* What is under the pointer: the cell, with everything that is known of it. */
function told(panel, point) {
  const s = panel.surface;
  if (point.data.name === "trajectory" || point.data.name === "way") {
    const i = point.pointNumber;
    return s.path.columns.map(([name, values]) => [name, show(values[i])]);
  }
  const head = point.data.name === "marks" ? [[s.marks[point.pointNumber].name, ""]] : [];
  const near = (axis, at) => axis.reduce((best, v, i) =>
    (Math.abs(v - at) < Math.abs(axis[best] - at) ? i : best), 0);
  const a = near(s.alpha, point.x), b = near(s.beta, point.y), i = b * s.alpha.length + a;
  const lines = [...head, ["α", show(s.alpha[a])], ["β", show(s.beta[b])]];
  const status = ["not computed yet", "done", "failed"][panel.status[i]] || "unknown";
  if (panel.status[i] === 1) {
    for (const q of data.quantities) {
      lines.push([q.label, show(panel.values[q.name][i])]);
    }
  }
  return lines.concat([["status", status]]);
}

function show(value) {
  if (typeof value !== "number") return String(value);
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size === 0 || (size >= 1e-3 && size < 1e6)) {
    return String(Number(value.toPrecision(6))).replace("-", "−");
  }
  const [mantissa, power] = value.toExponential(4).replace("+", "").split("e");
  const raised = [...power].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
  return mantissa.replace("-", "−") + "×10" + raised;
}

function showTip(panel, event) {
  const point = event.points[0], tip = find("tip"), table = document.createElement("table");
  for (const [name, value] of told(panel, point)) {
    const row = table.insertRow();
    row.insertCell().textContent = name;
    row.insertCell().textContent = value;
  }
  tip.replaceChildren(table);
  const x = panel.pointer[0] + 18, y = panel.pointer[1] + 14;
  tip.style.left = Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(4, Math.min(y, innerHeight - tip.offsetHeight - 8)) + "px";
  tip.style.visibility = "visible";
}

function hideTip() { find("tip").style.visibility = "hidden"; }

/* All scenes are seen from where the one that is turned is seen. */
let waiting = false;
function follow(source, change) {
  const camera = change["scene.camera"];
  if (!camera || source.following) return;
  state.camera = camera;
  remember();
  if (waiting || panels.length === 1) return;
  waiting = true;
  requestAnimationFrame(async () => {
    for (const p of panels.filter((p) => p !== source)) {
      p.following = true;
      await Plotly.relayout(p.scene, { "scene.camera": state.camera });
      p.following = false;
    }
    waiting = false;
  });
}

function build() {
  const columns = { 1: 1, 2: 2, 3: 3, 4: 2 }[data.surfaces.length] || 3;
  find("panels").style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  const lines = Math.ceil(data.surfaces.length / columns);
  find("panels").style.gridTemplateRows = `repeat(${lines}, minmax(350px, 1fr))`;
  find("title").textContent = data.title;
  find("title").hidden = !data.title;
  data.surfaces.forEach((surface, index) => {
    const figure = document.createElement("figure");
    const caption = figure.appendChild(document.createElement("figcaption"));
    caption.textContent = surface.name;
    for (const line of surface.about) {
      caption.appendChild(document.createElement("small")).textContent = line;
    }
    const scene = figure.appendChild(document.createElement("div"));
    scene.className = "scene";
    find("panels").append(figure);
    const values = {};
    for (const [name, text] of Object.entries(surface.values)) values[name] = numbers(text, "f8");
    panels.push({ surface, index, scene, values, pointer: [0, 0],
      status: Array.from(numbers(surface.status, "u1")) });
  });
  for (const q of data.quantities) find("quantity").add(new Option(q.label, q.name));
  find("with-path").hidden = !data.surfaces.some((s) => s.path);
  find("live").textContent = data.live ? data.live.text : "";
}

function controls() {
  const offer = () => {
    find("quantity").value = state.quantity;
    find("scales").replaceChildren(...Object.keys(quantity().scales).map((name) => {
      const label = document.createElement("label"), made = document.createElement("input");
      Object.assign(made, { type: "radio", name: "scale", value: name });
      made.checked = name === scaleName();
      made.onchange = () => { state.scale = name; draw(); };
      label.append(made, name);
      label.style.marginRight = "1em";
      return label;
    }));
  };
  find("quantity").onchange = (e) => { state.quantity = e.target.value; offer(); draw(); };
  for (const name of ["lines", "path"]) {
    find(name).checked = state[name];
    find(name).onchange = (e) => { state[name] = e.target.checked; draw(); };
  }
  find("reset").onclick = () => {
    state.camera = data.camera;
    remember();
    panels.forEach((p) => Plotly.relayout(p.scene, { "scene.camera": data.camera }));
  };
  offer();
}

let busy = 0;
function reloadLater() {
  setTimeout(() => {
    if (Date.now() - busy < 2000 || document.hidden) return reloadLater();
    location.reload();
  }, 1000 * data.live.seconds);
}

/* The camera stands as near as it can with the whole landscape and its numbers in every scene. */
function stepBack() {
  const box = panels[0].scene.getBoundingClientRect(), { eye, center, zoom } = data.camera;
  let share = 0.5;
  while (share < 6 && !panels.every((p) => fits(p.surface.base, share, box))) share += 0.02;
  const scaled = Object.entries(eye).map(([axis, at]) => [axis, at * share / zoom]);
  data.camera = { eye: Object.fromEntries(scaled), center };
  state.camera = state.camera || data.camera;
}

/* Whether the corners of a landscape are in a scene, with ROOM for numbers, so far from the eye. */
function fits(base, share, box) {
  const minus = (a, b) => a.map((v, i) => v - b[i]), dot = (a, b) => a.reduce((s, v, i) => s + v * b[i], 0);
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => a.map((v) => v / Math.sqrt(dot(a, a)));
  const at = ({ x, y, z }) => [x, y, z];
  const eye = at(data.camera.eye).map((v) => v * share);
  const ahead = unit(minus(at(data.camera.center), eye)), right = unit(cross(ahead, [0, 0, 1]));
  const half = Math.tan(VIEW / 2), size = [...base, data.relief].map((v) => v * 1.25 / 2);
  return [0, 1, 2, 3, 4, 5, 6, 7].every((corner) => {
    const place = minus(size.map((v, i) => (corner >> i & 1 ? v : -v)), eye), depth = dot(place, ahead);
    const x = dot(place, right) / depth, y = dot(place, cross(right, ahead)) / depth;
    return depth > 0 && Math.abs(y) < half * ROOM[1]
      && Math.abs(x) < half * box.width / box.height * ROOM[0];
  });
}

async function start() {
  await loadViewer();
  build();
  stepBack();
  controls();
  await draw();
  for (const p of panels) {
    p.scene.addEventListener("pointermove", (e) => { p.pointer = [e.clientX, e.clientY]; }, true);
    p.scene.addEventListener("pointerdown", () => { busy = Date.now(); hideTip(); }, true);
    p.scene.addEventListener("pointerleave", hideTip);
    p.scene.on("plotly_hover", (e) => showTip(p, e));
    p.scene.on("plotly_unhover", hideTip);
    p.scene.on("plotly_relayouting", (change) => { busy = Date.now(); follow(p, change); });
    p.scene.on("plotly_relayout", (change) => follow(p, change));
  }
  document.body.dataset.ready = "yes";
  if (data.live) reloadLater();
}

start().catch((error) => {
  const made = document.createElement("p");
  made.id = "trouble";
  made.textContent = "The page cannot be drawn: " + error.message;
  document.querySelector("main").replaceChildren(made);
  console.error(error);
});
