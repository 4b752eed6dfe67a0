/* Draws the figures that the page carries and switches groups in all of them at once. */
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const { figures, groups, many, rows, prompts } = data;
  const boxes = [...document.querySelectorAll("#controls-list input")];
  const plots = new Map(); // of the figures that are drawn, by their key
  const MOST_PX = 46; // thickness of a box; a violin is wider

  const hasWebGL = (() => {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch {
      return false;
    }
  })();

  const pointer = { x: innerWidth / 2, y: innerHeight / 2 };
  document.addEventListener("pointermove", (event) => Object.assign(pointer, { x: event.clientX, y: event.clientY }), { passive: true });
  const viewer = pictureViewer(data, () => rows.file.map((_, row) => row).filter(isShown));
  const alone = (group) => (solo === group ? show(() => true) : show((i) => i === group, group));
  const ranking = rankingTable(alone);
  const curves = checkpointCurves(data, alone, viewer);

  // The row behind a point; boxes with given quartiles hold their points as one list per box.
  function rowOf({ points: [point] }) {
    const row = Array.isArray(point?.customdata) ? point.customdata[0] : point?.customdata;
    return Number.isInteger(row) ? row : null;
  }

  function listen(plot) {
    plot.on("plotly_hover", (event) => {
      const row = rowOf(event);
      if (row !== null && !viewer.isOpen()) viewer.show(row, pointer.x, pointer.y);
    });
    plot.on("plotly_unhover", viewer.hide);
    plot.on("plotly_click", (event) => {
      const row = rowOf(event);
      if (row !== null) viewer.open(row);
    });
  }

  async function draw(key) {
    const figure = figures[key];
    const plot = document.getElementById(`plot-${key}`);
    for (const trace of figure.data) {
      trace.hoverinfo = "none"; // the page shows its own, with the picture
      if (trace.type === "box" || trace.type === "violin") trace.hoveron = "points";
      if (many && trace.type === "scatter" && hasWebGL) trace.type = "scattergl";
    }
    figure.height = figure.layout.height;
    // A finger must be able to scroll past a chart instead of drawing a zoom box in it.
    const coarse = matchMedia("(pointer: coarse)").matches;
    if (coarse) figure.layout.dragmode = false;
    const is3d = figure.data.some((trace) => trace.type === "scatter3d");
    const config = {
      responsive: true,
      displaylogo: false,
      displayModeBar: coarse ? false : "hover",
      // A list of what is wanted: Plotly's own choice includes "Share chart", which uploads the data to a server.
      modeBarButtons: [is3d ? ["resetCameraDefault3d"] : ["zoom2d", "pan2d", "resetScale2d"]],
      plotlyServerURL: "",
    };
    const { traces, layout } = byPrompt() ? regrouped(figure) : grouped(figure);
    await Plotly.newPlot(plot, traces, layout, config);
    plots.set(key, plot);
    listen(plot);
  }

  // By group: the traces that the page came with. Hidden ones stay in the chart, so that switching is quick.
  function grouped(figure) {
    figure.data.forEach((trace, i) => { trace.visible = boxes[i].checked; });
    const layout = { ...figure.layout, height: figure.height };
    if (figure.names) layout.yaxis = { ...layout.yaxis, ...figure.names };
    const shown = figure.data.filter((trace, i) => boxes[i].checked && trace.x.length).length;
    arrange(figure.data, layout, shown);
    return { traces: figure.data, layout };
  }

  // Boxes and violins keep a sensible thickness when few groups share the height.
  function arrange(traces, layout, shown) {
    if (layout.yaxis?.type !== "category") return;
    const rowsShown = Math.max(1, shown);
    const most = MOST_PX / ((layout.height - 80) / rowsShown);
    for (const trace of traces) trace.width = trace.type === "violin" ? Math.min(0.88, 1.4 * most) : Math.min(0.62, most);
    layout.yaxis = { ...layout.yaxis, range: [rowsShown - 0.5, -0.5] };
  }

  // By prompt: the points of the groups that are switched on, one trace for each kind of prompt.
  function regrouped(figure) {
    const [like] = figure.data;
    const lying = like.orientation === "h";
    const parts = prompts.kinds.map(() => ({ x: [], y: [], z: [], customdata: [], size: [] }));
    figure.data.forEach((trace, i) => {
      if (!boxes[i].checked) return;
      const x = trace.x.flat();
      trace.customdata.flat().forEach((row, n) => {
        const part = parts[prompts.kind_of[row]];
        part.customdata.push(row);
        part.x.push(x[n]);
        if (!lying) part.y.push(trace.y[n]);
        if (trace.z) part.z.push(trace.z[n]);
        if (Array.isArray(trace.marker.size)) part.size.push(trace.marker.size[n]);
      });
    });
    const traces = parts.map((part, i) => kindTrace(like, part, i, lying));
    const layout = { ...figure.layout, height: figure.height };
    if (lying) {
      figure.names ??= { tickvals: layout.yaxis.tickvals, ticktext: layout.yaxis.ticktext };
      layout.height = Math.max(figure.height, 80 + 30 * parts.length);
      layout.yaxis = { ...layout.yaxis, tickvals: parts.map((_, i) => `p${i}`), ticktext: prompts.kinds.map((kind) => kind.short) };
      arrange(traces, layout, traces.filter((trace, i) => trace.visible && parts[i].x.length).length);
    }
    return { traces, layout };
  }

  function kindTrace(like, part, i, lying) {
    const kind = prompts.kinds[i];
    const marker = { ...like.marker, color: kind.colour, symbol: like.type === "scatter3d" ? kind.symbol3d : kind.symbol };
    if (part.size.length) marker.size = part.size;
    const trace = { ...like, ...part, name: kind.short, marker, visible: kindBoxes[i].checked };
    delete trace.size;
    if (!part.z.length) delete trace.z;
    if (!lying) return trace;
    for (const part of ["y", "q1", "median", "q3"]) delete trace[part];
    Object.assign(trace, { y0: `p${i}`, line: { ...like.line, color: kind.colour }, fillcolor: `${kind.colour}26` });
    if (trace.type !== "box" || !part.x.length) return trace;
    // As for the groups: one list of points per box, and the quartiles of the table (Plotly's are others).
    const [q1, median, q3] = [0.25, 0.5, 0.75].map((share) => [quantile(part.x, share)]);
    return { ...trace, q1, median, q3, y: [trace.y0], x: [part.x], customdata: [part.customdata] };
  }

  // As pandas has it: linear between two values.
  function quantile(values, share) {
    const sorted = [...values].sort((a, b) => a - b);
    const place = share * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
    return low + (high - low) * (place - Math.floor(place));
  }

  async function drawAll() {
    const atFirst = switches();
    for (const key of Object.keys(figures)) {
      await draw(key);
      await new Promise((resume) => setTimeout(resume)); // the page stays answerable between two charts
    }
    if (switches() !== atFirst) await apply(); // somebody was faster than the drawing
  }

  // Thousands of points: a chart is drawn when it comes near the window, so that the page opens at once.
  function drawNear() {
    const waiting = new Set(Object.keys(figures));
    let last = Promise.resolve();
    return new Promise((drawn) => {
      const observer = new IntersectionObserver((entries) => {
        for (const { target, isIntersecting } of entries) {
          const key = target.id.slice("plot-".length);
          if (!isIntersecting || !waiting.delete(key)) continue;
          observer.unobserve(target);
          last = last.then(() => draw(key)).then(() => new Promise((resume) => setTimeout(resume)));
        }
        last.then(drawn);
      }, { rootMargin: "200px" });
      for (const key of waiting) observer.observe(document.getElementById(`plot-${key}`));
      if (!waiting.size) drawn();
    });
  }

  const pointsBy = document.getElementById("points-by");
  const byPrompt = () => pointsBy.value === "prompt";
  const kindBoxes = prompts.kinds.map(kindBox);
  const isShown = (row) => boxes[rows.group[row]].checked && (!byPrompt() || kindBoxes[prompts.kind_of[row]].checked);
  const switches = () => [pointsBy.value, ...[...boxes, ...kindBoxes].map((box) => Number(box.checked))].join("");

  // One line of the list of prompts; names are text, never HTML.
  function kindBox(kind) {
    const line = document.createElement("li");
    line.innerHTML = '<label><input type="checkbox" checked autocomplete="off"><svg class="swatch" viewBox="0 0 16 16" aria-hidden="true"><path></path></svg><span class="name"></span></label>';
    line.querySelector("path").setAttribute("d", kind.path);
    line.querySelector("path").setAttribute("fill", kind.colour);
    line.querySelector(".name").textContent = kind.label;
    line.title = kind.label;
    document.getElementById("prompts-list").append(line);
    const box = line.querySelector("input");
    box.addEventListener("change", () => apply());
    return box;
  }

  document.getElementById("points-by-label").hidden = !prompts.kinds.length;
  pointsBy.addEventListener("change", () => {
    document.getElementById("prompts-list").hidden = !byPrompt();
    apply();
  });

  let wasByPrompt = false;
  function apply() {
    viewer.hide();
    const quick = !byPrompt() && !wasByPrompt; // the traces stay, only some are hidden
    wasByPrompt = byPrompt();
    return Promise.all([...plots].map(([key, plot]) => {
      const { traces, layout } = byPrompt() ? regrouped(figures[key]) : grouped(figures[key]);
      if (!quick) return Plotly.react(plot, traces, layout);
      const range = layout.yaxis?.range && layout.yaxis.type === "category" ? { "yaxis.range": layout.yaxis.range } : {};
      return Plotly.update(plot, { visible: boxes.map((box) => box.checked) }, range);
    }));
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
    ranking.mark(solo);
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
    if (event.key !== "Escape" || viewer.isOpen() || panel.classList.contains("closed")) return;
    open(false);
    if (panel.contains(document.activeElement)) toggle.focus();
  });

  // A chart as a picture: what the page says around it (title, groups, pack, time) stands in it too.
  async function save(key) {
    const plot = plots.get(key) ?? (await draw(key), plots.get(key));
    const lying = plot.layout.yaxis?.type === "category";
    const on = boxes.filter((box) => box.checked).length;
    const points = rows.file.filter((_, row) => isShown(row) && rows.det_score[row] !== null).length;
    const axis = [plot.layout.xaxis, plot.layout.yaxis].map((one) => one?.title?.text).filter(Boolean).reverse().join(" against ");
    const shown = `${on === boxes.length ? "all" : `${on} of ${boxes.length}`} groups${byPrompt() ? " by prompt" : ""}`;
    const said = [axis, `${shown}, ${points.toLocaleString("en")} faces`, data.made.pack, data.made.created];
    const layout = {
      ...plot.layout,
      title: { text: `<b>${data.panels[key]}</b>`, x: 0.02, xanchor: "left", y: 0.97, yanchor: "top", font: { size: 20, color: "#eef0f6" },
        subtitle: { text: said.filter(Boolean).join(" \u00b7 "), font: { size: 13, color: "#9aa1b5" } } },
      margin: { ...plot.layout.margin, l: Math.max(24, plot.layout.margin.l), r: 24, t: 96, b: Math.max(24, plot.layout.margin.b) },
      paper_bgcolor: "#1a1d27",
      showlegend: !lying,
      legend: { orientation: "h", y: -0.12, yanchor: "top", itemsizing: "constant", font: { size: 12, color: "#d5d9e5" } },
    };
    const size = { format: "png", width: 1200, height: Math.max(700, plot.offsetHeight + 80), scale: 2 };
    const link = document.createElement("a");
    link.href = await Plotly.toImage({ data: plot.data, layout }, size);
    link.download = `MirrorMetrics ${key} ${data.made.created.replace(/[^0-9]+/g, "-")}.png`;
    link.click();
  }
  for (const button of document.querySelectorAll("button.save")) {
    button.addEventListener("click", async () => {
      button.disabled = true;
      await save(button.dataset.panel).finally(() => { button.disabled = false; });
    });
  }

  // A picture stands on the page once, behind the scripts; it is drawn where it comes near the window.
  function showThumbs() {
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        target.replaceChildren(viewer.picture(Number(target.dataset.thumb)) ?? "no picture");
      }
    }, { rootMargin: "300px" });
    for (const target of document.querySelectorAll("[data-thumb]")) observer.observe(target);
  }

  document.addEventListener("DOMContentLoaded", () => {
    curves.showStrips();
    showThumbs();
  });

  tell();
  curves.draw();
  (many ? drawNear() : drawAll()).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
