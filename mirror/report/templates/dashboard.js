/* Draws the figures that the page carries and switches groups in all of them at once. */
(() => {
  "use strict";
  const { figures, groups, many, rows } = JSON.parse(document.getElementById("page-data").textContent);
  const boxes = [...document.querySelectorAll("#controls-list input")];
  const plots = [];
  const MOST_PX = 46; // thickness of a box; a violin is wider
  const LINE = 44; // characters of a file name on one line of a hover label

  // Plotly reads pseudo-HTML in every text, so a name must reach it escaped.
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const wrapped = (text) => {
    const letters = [...text];
    const lines = [];
    for (let i = 0; i < letters.length; i += LINE) lines.push(escaped(letters.slice(i, i + LINE).join("")));
    return lines.join("<br>");
  };
  const angle = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(1) + "\u00b0";
  const given = (label, value, write) => (value === null ? `${label} not measured` : `${label} ${write(value)}`);

  function hoverText(row) {
    const lines = [`<b>${wrapped(rows.file[row])}</b>`, groups[rows.group[row]].label];
    lines.push(given("Similarity", rows.similarity[row], (v) => v.toFixed(4)));
    lines.push(given("Age", rows.age[row], (v) => v.toFixed(0)));
    lines.push(`${given("Yaw", rows.yaw[row], angle)}, ${given("pitch", rows.pitch[row], angle)}`);
    lines.push(given("Detection", rows.det_score[row], (v) => v.toFixed(3)));
    if (rows.note[row]) lines.push(rows.note[row]);
    return lines.join("<br>");
  }

  function hasWebGL() {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch {
      return false;
    }
  }

  const texts = new Map();
  const textOf = (row) => texts.get(row) ?? texts.set(row, hoverText(row)).get(row);

  function draw(key, figure, useGL) {
    const plot = document.getElementById(`plot-${key}`);
    figure.data.forEach((trace, i) => {
      const nested = Array.isArray(trace.customdata[0]); // a box with given quartiles: one list of points per box
      trace.hovertext = nested ? trace.customdata.map((rows) => rows.map(textOf)) : trace.customdata.map(textOf);
      trace.hoverinfo = "text";
      trace.hoverlabel = { bordercolor: groups[i].colour };
      trace.visible = boxes[i].checked;
      if (useGL && trace.type === "scatter") trace.type = "scattergl";
    });
    figure.layout.yaxis.range = arrange(figure.data, figure.layout)["yaxis.range"];
    // A finger must be able to scroll past a chart instead of drawing a zoom box in it.
    const coarse = matchMedia("(pointer: coarse)").matches;
    if (coarse) figure.layout.dragmode = false;
    plots.push(plot);
    const is3d = figure.data.some((trace) => trace.type === "scatter3d");
    const config = {
      responsive: true,
      displaylogo: false,
      displayModeBar: coarse ? false : "hover",
      // A list of what is wanted: Plotly's own choice includes "Share chart", which uploads the data to a server.
      modeBarButtons: [is3d ? ["toImage", "resetCameraDefault3d"] : ["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      plotlyServerURL: "",
    };
    return Plotly.newPlot(plot, figure.data, figure.layout, config);
  }

  // Boxes and violins keep a sensible thickness when few groups share the height. Returns what to change in the layout.
  function arrange(traces, layout) {
    if (layout.yaxis.type !== "category") return {};
    const shown = Math.max(1, traces.filter((trace, i) => boxes[i].checked && trace.x.length).length);
    const most = MOST_PX / ((layout.height - 80) / shown);
    for (const trace of traces) trace.width = trace.type === "violin" ? Math.min(0.88, 1.4 * most) : Math.min(0.62, most);
    return { "yaxis.range": [shown - 0.5, -0.5] };
  }

  async function drawAll() {
    const useGL = many && hasWebGL();
    const atFirst = switches();
    for (const [key, figure] of Object.entries(figures)) {
      await draw(key, figure, useGL);
      await new Promise((resume) => setTimeout(resume)); // the page stays answerable between two charts
    }
    if (switches() !== atFirst) await apply(); // somebody was faster than the drawing
    document.documentElement.dataset.ready = "yes";
  }

  const switches = () => boxes.map((box) => Number(box.checked)).join("");

  function apply() {
    const visible = boxes.map((box) => box.checked);
    return Promise.all(plots.map((plot) => Plotly.update(plot, { visible }, arrange(plot.data, plot.layout))));
  }

  let solo = -1; // the group shown alone, -1 for none
  const soloButton = document.getElementById("show-solo");
  const status = document.getElementById("controls-status");
  const nameOf = (box) => box.closest("label").querySelector(".name").textContent;

  function show(wanted, alone = -1) {
    boxes.forEach((box, i) => { box.checked = wanted(i); });
    solo = alone;
    tell();
    return apply();
  }

  function tell() {
    const count = boxes.filter((box) => box.checked).length;
    soloButton.setAttribute("aria-pressed", String(solo >= 0));
    status.textContent = solo >= 0 ? `Only: ${nameOf(boxes[solo])}` : `${count} of ${boxes.length} shown in all charts`;
  }

  document.getElementById("show-all").addEventListener("click", () => show(() => true));
  document.getElementById("show-none").addEventListener("click", () => show(() => false));
  soloButton.addEventListener("click", () => {
    if (!boxes.length) return;
    const next = (solo + 1) % boxes.length;
    show((i) => i === next, next);
  });
  for (const box of boxes) {
    box.addEventListener("change", () => {
      solo = -1;
      tell();
      apply();
    });
  }

  const panel = document.getElementById("controls");
  const toggle = document.getElementById("controls-toggle");
  function open(yes) {
    panel.classList.toggle("closed", !yes);
    toggle.setAttribute("aria-expanded", String(yes));
    toggle.textContent = yes ? "Close" : "Groups";
  }
  toggle.addEventListener("click", () => open(panel.classList.contains("closed")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || panel.classList.contains("closed")) return;
    open(false);
    if (panel.contains(document.activeElement)) toggle.focus();
  });

  tell();
  drawAll();
})();
