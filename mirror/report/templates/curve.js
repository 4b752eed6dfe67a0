/* Checkpoints by step or epoch: similarity with its interval, what happens beside it, and one picture of each. */
"use strict";

/* `alone(group)` shows a group alone in all charts; `viewer` has the pictures. */
function checkpointCurves(data, alone, viewer) {
  const INK = "#eef0f6";
  const MUTED = "#9aa1b5";
  const LINES = [
    { key: "faces", name: "share with a face", colour: "#0eb0a9", dash: "dot" },
    { key: "copies", name: "share of near copies", colour: "#ff8a7a", dash: "dash" },
    { key: "poses", name: "yaw spread by the references'", colour: "#f4f27e", dash: "dashdot" },
  ];

  function similarity(curve) {
    const { points } = curve;
    const measured = points.filter((point) => point.median !== null);
    const whisker = (point, end) => (point[end] === null ? 0 : Math.abs(point[end] - point.median));
    return {
      type: "scatter", mode: "lines+markers", name: "median similarity",
      x: measured.map((point) => point.number),
      y: measured.map((point) => point.median),
      customdata: measured.map((point) => point.group),
      text: measured.map((point) => point.verdicts.join(", ")),
      error_y: { type: "data", symmetric: false, array: measured.map((point) => whisker(point, "high")), arrayminus: measured.map((point) => whisker(point, "low")), color: "#d9b8ff", thickness: 1.5, width: 5 },
      line: { color: "#a855f7", width: 2.5 },
      marker: { size: measured.map((point) => (points[curve.best] === point ? 15 : 9)), symbol: measured.map((point) => (points[curve.best] === point ? "star" : "circle")), color: measured.map((point) => (points[curve.best] === point ? "#4fd1a5" : "#a855f7")), line: { width: 0 } },
      hovertemplate: `${curve.unit} %{x}: %{y:.3f}<br>%{text}<extra></extra>`,
    };
  }

  function beside(curve, { key, name, colour, dash }) {
    const points = curve.points.filter((point) => point[key] !== null);
    return {
      type: "scatter", mode: "lines+markers", name, x: points.map((point) => point.number), y: points.map((point) => Math.min(1.5, point[key])),
      yaxis: "y2", marker: { size: 5, color: colour },
      line: { color: colour, width: 1.5, dash }, customdata: points.map((point) => point.group), hovertemplate: `${name} %{y:.0%}<extra></extra>`,
    };
  }

  function level(value, text) {
    if (value === null) return { shapes: [], annotations: [] };
    const line = { type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: value, y1: value, line: { color: MUTED, width: 1, dash: "dot" }, layer: "below" };
    const label = { xref: "paper", yref: "y", x: 1, xanchor: "right", y: value, yanchor: "bottom", text, showarrow: false, font: { size: 11, color: MUTED } };
    return { shapes: [line], annotations: [label] };
  }

  function layoutOf(curve) {
    const levels = [level(curve.references, "references"), level(curve.floor, "no LoRA")];
    const axis = { gridcolor: "#2c3142", linecolor: "#2c3142", zeroline: false, tickfont: { size: 12 }, automargin: true };
    return {
      height: 430, margin: { l: 46, r: 14, t: 14, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", color: "#d5d9e5", size: 12 },
      xaxis: { ...axis, anchor: "y2", title: { text: curve.unit, font: { size: 12, color: MUTED }, standoff: 6 } },
      yaxis: { ...axis, domain: [0.4, 1], title: { text: "similarity", font: { size: 12, color: MUTED } } },
      yaxis2: { ...axis, domain: [0, 0.33], range: [-0.05, 1.55], tickformat: ".0%", nticks: 4 },
      legend: { orientation: "h", y: -0.17, yanchor: "top", font: { size: 12, color: INK } },
      hoverlabel: { bgcolor: "#0b0d13", align: "left", font: { size: 13, color: "#f3f4f8" } },
      shapes: levels.flatMap((one) => one.shapes), annotations: levels.flatMap((one) => one.annotations),
    };
  }

  function thumb(row, label) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "thumb";
    button.setAttribute("aria-label", label);
    if (row === null) {
      button.disabled = true;
      button.textContent = "no such picture";
      return button;
    }
    button.append(viewer.picture(row) ?? "no picture");
    button.addEventListener("click", () => viewer.open(row));
    return button;
  }

  function fill(strip, curve, at) {
    strip.replaceChildren(...curve.points.map((point, i) => {
      const line = document.createElement("li");
      const best = i === curve.best;
      if (best) line.className = "best";
      const median = point.median === null ? "" : ` \u00b7 ${point.median.toFixed(3)}`;
      line.append(thumb(curve.strips[at].rows[i], point.label), `${curve.unit} ${point.number}${median}${best ? " \u00b7 best" : ""}`);
      return line;
    }));
  }

  async function draw() {
    for (const plot of document.querySelectorAll(".curve-plot")) {
      const curve = data.curves[plot.dataset.curve];
      const traces = [similarity(curve), ...LINES.map((line) => beside(curve, line)).filter((trace) => trace.x.length)];
      await Plotly.newPlot(plot, traces, layoutOf(curve), { responsive: true, displayModeBar: false });
      plot.on("plotly_click", ({ points: [point] }) => alone(point.customdata));
    }
  }

  function showStrips() {
    for (const strip of document.querySelectorAll("ol.strip")) {
      const curve = data.curves[strip.dataset.curve];
      const choice = strip.closest("section").querySelector("select");
      choice.addEventListener("change", () => fill(strip, curve, Number(choice.value)));
      fill(strip, curve, 0);
    }
  }

  return { draw, showStrips };
}
