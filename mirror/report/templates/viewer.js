/* The picture behind a point: beside the pointer while it hovers, large with its numbers when it is clicked. */
"use strict";

/* `data` is the page's; `walk` gives the rows, in order, that the arrow keys go through. */
function pictureViewer(data, walk) {
  const { rows, groups, prompts, links } = data;
  const byId = (id) => document.getElementById(id);
  const parsed = new Map();

  // Thousands of pictures are tens of megabytes: they stand behind the scripts, so that charts are drawn before the
  // browser has read them, and a piece is parsed when one of its pictures is asked for.
  function sourceOf(row) {
    const piece = Math.floor(row / data.block);
    if (!parsed.has(piece)) {
      const element = byId(`pictures-${piece}`);
      if (!element?.nextSibling) return null; // not read yet, or not to its end
      parsed.set(piece, JSON.parse(element.textContent));
    }
    const text = parsed.get(piece)[row % data.block];
    return text && `data:image/jpeg;base64,${text}`;
  }

  // Every name and prompt reaches the page as text, never as HTML.
  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  function picture(row) {
    const source = sourceOf(row);
    if (!source) return null;
    const image = make("img", "");
    image.decoding = "sync"; // text and picture come together
    image.alt = rows.file[row];
    image.src = source;
    return image;
  }

  const angle = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(1) + "\u00b0";
  const fixed = (digits) => (value) => value.toFixed(digits);
  const given = (label, value, write) => (value === null ? `${label} not measured` : `${label} ${write(value)}`);
  const promptOf = (row) => (prompts.of[row] === null ? "" : prompts.texts[prompts.of[row]]);

  const peek = byId("peek");

  function linesOf(row) {
    const lines = [
      given("Similarity", rows.similarity[row], fixed(4)),
      given("Age", rows.age[row], fixed(0)),
      `${given("Yaw", rows.yaw[row], angle)}, ${given("pitch", rows.pitch[row], angle)}`,
      given("Detection", rows.det_score[row], fixed(3)),
    ];
    return rows.note[row] ? [...lines, rows.note[row]] : lines;
  }

  function show(row, x, y) {
    const group = groups[rows.group[row]];
    const text = make("div", "", make("b", "", rows.file[row]), make("div", "", group.label));
    for (const line of linesOf(row)) text.append(make("div", "", line));
    if (promptOf(row)) text.append(make("div", "prompt", promptOf(row)));
    peek.replaceChildren(...[picture(row), text].filter(Boolean));
    peek.style.setProperty("--group", group.colour);
    peek.hidden = false;
    place(x, y);
  }

  // Right of the pointer, or left of it where the window ends; in a narrow window below or above it.
  function place(x, y) {
    const { offsetWidth: width, offsetHeight: height } = peek;
    const within = (value, size, room) => Math.max(4, Math.min(value, room - size - 4));
    const beside = [x + 16, x - 16 - width].find((left) => left >= 4 && left + width <= innerWidth - 4);
    const left = beside ?? within(x - width / 2, width, innerWidth);
    const below = y + 16 + height <= innerHeight - 4;
    const top = beside === undefined ? (below ? y + 16 : y - 16 - height) : y - height / 2;
    peek.style.transform = `translate(${left}px, ${within(top, height, innerHeight)}px)`;
  }

  const hide = () => { peek.hidden = true; };

  const viewer = byId("viewer");
  let current = null; // the row that is shown large

  function figure(caption, row, otherwise) {
    const image = row === null ? null : picture(row);
    return make("figure", "", make("figcaption", "", caption), image ?? make("div", "empty", otherwise));
  }

  function drawPictures(row) {
    const nearest = rows.nearest[row];
    const alike = rows.nearest_similarity[row];
    const real = groups[rows.group[row]].reference;
    const caption = nearest === null ? "Nearest reference"
      : `${real ? "Most similar other reference" : "Nearest reference"}: ${rows.file[nearest]}`;
    const why = rows.det_score[row] === null ? "No face was measured, so nothing is near." : "No reference to compare with.";
    byId("viewer-pictures").replaceChildren(
      figure(groups[rows.group[row]].label, row, "No picture: the file could not be read."),
      figure(alike === null ? caption : `${caption} (${alike.toFixed(3)})`, nearest, nearest === null ? why : "No picture."));
  }

  function drawNumbers(row) {
    const numbers = [
      [data.held_out ? "Similarity to the held-out photos" : "Similarity", rows.similarity[row], fixed(4)],
      ["Similarity to the nearest reference", rows.nearest_similarity[row], fixed(4)],
      ["Apparent age", rows.age[row], fixed(0)],
      ["Yaw", rows.yaw[row], angle],
      ["Pitch", rows.pitch[row], angle],
      ["Roll", rows.roll[row], angle],
      ["Face width / height", rows.ratio[row], fixed(3)],
      ["Detection score", rows.det_score[row], fixed(3)],
    ];
    const list = numbers.flatMap(([label, value, write]) =>
      [make("dt", "", label), make("dd", "", value === null ? "not measured" : write(value))]);
    if (rows.note[row]) list.push(make("dt", "", "Note"), make("dd", "", rows.note[row]));
    byId("viewer-numbers").replaceChildren(...list);
  }

  function drawMade(row) {
    const seed = prompts.seeds[row];
    const prompt = promptOf(row);
    const by = prompts.generators[row] ? ` (${prompts.generators[row]})` : "";
    const parts = [];
    if (prompt) parts.push(make("h3", "", `Prompt${by}`), make("p", "prompt", prompt));
    if (seed) parts.push(make("h3", "", prompt ? "Seed" : `Seed${by}`), make("p", "", seed));
    if (!parts.length && !groups[rows.group[row]].reference) parts.push(make("p", "hint", "The file says no prompt and no seed."));
    byId("viewer-made").replaceChildren(...parts);
  }

  function drawFile(row) {
    const shown = viewer.querySelector("#viewer-pictures img");
    const note = byId("viewer-file");
    note.replaceChildren();
    if (shown) note.append(`The page carries ${shown.naturalWidth} \u00d7 ${shown.naturalHeight} pixels of it. `);
    if (!links[row]) return;
    const link = make("a", "", "Open the file itself");
    link.href = links[row];
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    note.append(link, ", if it still lies where it was measured.");
  }

  async function draw(row) {
    current = row;
    const order = walk();
    const at = order.indexOf(row);
    byId("viewer-name").textContent = rows.file[row];
    byId("viewer-place").textContent = at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}`;
    byId("viewer-back").disabled = at <= 0;
    byId("viewer-on").disabled = at < 0 || at === order.length - 1;
    drawPictures(row);
    drawNumbers(row);
    drawMade(row);
    await viewer.querySelector("#viewer-pictures img")?.decode().catch(() => {});
    if (current === row) drawFile(row);
  }

  function step(by) {
    const order = walk();
    const next = order[order.indexOf(current) + by];
    if (order.includes(current) && next !== undefined) draw(next);
  }

  function open(row) {
    hide();
    draw(row);
    if (!viewer.open) viewer.showModal(); // Escape closes it, and the focus goes back to where it was
    viewer.scrollTop = 0;
  }

  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(by);
  });
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close(); // beside the card, on the darkened page
  });
  byId("viewer-back").addEventListener("click", () => step(-1));
  byId("viewer-on").addEventListener("click", () => step(1));
  byId("viewer-close").addEventListener("click", () => viewer.close());
  for (const button of document.querySelectorAll("button[data-row]")) {
    button.addEventListener("click", () => open(Number(button.dataset.row)));
  }
  document.addEventListener("scroll", hide, { passive: true, capture: true });

  return { show, hide, open, picture, isOpen: () => viewer.open };
}
