/* Draws the pairs and the ranking that the page carries; only what is on screen is in the document. */
(() => {
  "use strict";
  const taken = (id) => {
    const element = document.getElementById(id);
    const value = JSON.parse(element.textContent);
    element.remove();
    return value;
  };
  const data = taken("page-data");
  const files = data.rows.file;
  const generated = data.compares === "generated";
  const byId = (id) => document.getElementById(id);

  /* A list of any length in a box of its full height; only the rows near the view exist. `scroller` is null for the page. */
  class Windowed {
    constructor(box, scroller, { leastWidth, height, gap, draw }) {
      Object.assign(this, { box, scroller, leastWidth, height, gap, draw, items: [], drawn: new Map() });
      (scroller ?? window).addEventListener("scroll", () => this.soon(), { passive: true });
      new ResizeObserver(() => this.soon()).observe(box);
      window.addEventListener("resize", () => this.soon());
    }

    show(items) {
      this.items = items;
      for (const element of this.drawn.values()) element.remove();
      this.drawn.clear();
      this.update();
    }

    soon() {
      this.waiting ??= requestAnimationFrame(() => {
        this.waiting = undefined;
        this.update();
      });
    }

    update() {
      const width = this.box.clientWidth;
      const columns = Math.max(1, Math.floor((width + this.gap) / (this.leastWidth + this.gap)));
      const step = this.height + this.gap;
      const count = Math.ceil(this.items.length / columns);
      this.box.style.height = `${Math.max(0, count * step - this.gap)}px`;
      const view = this.scroller ? this.scroller.getBoundingClientRect() : { top: 0, height: window.innerHeight };
      const above = view.top - this.box.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(above / step) - 2) * columns;
      const last = Math.min(this.items.length, (Math.ceil((above + view.height) / step) + 2) * columns);
      for (const [i, element] of this.drawn) {
        if (i >= first && i < last) continue;
        element.remove();
        this.drawn.delete(i);
      }
      const each = (width - this.gap * (columns - 1)) / columns;
      for (let i = first; i < last; i++) this.place(i, columns, each, step);
    }

    place(i, columns, each, step) {
      let element = this.drawn.get(i);
      if (!element) {
        element = this.draw(this.items[i]);
        element.setAttribute("aria-setsize", this.items.length);
        element.setAttribute("aria-posinset", i + 1);
        this.drawn.set(i, element);
        this.box.append(element);
      }
      const style = element.style;
      style.width = `${each}px`;
      style.height = `${this.height}px`;
      style.left = `${(i % columns) * (each + this.gap)}px`;
      style.top = `${Math.floor(i / columns) * step}px`;
    }
  }

  // Every name reaches the page as text (textContent, title, alt), never as HTML.
  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  function named(className, text) {
    const element = make("span", `name ${className}`, text);
    element.title = text;
    return element;
  }

  function picture(row) {
    const source = viewer.sourceOf(row);
    if (!source) return make("div", "picture empty", "No picture");
    const image = make("img", "picture");
    image.decoding = "async";
    image.alt = files[row];
    image.src = source;
    return image;
  }

  function swatch(group) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("class", "swatch");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", group.path);
    path.setAttribute("fill", group.colour);
    svg.append(path);
    return svg;
  }

  const isNumber = (value) => typeof value === "number";

  // With held-out photos every face is compared with those.
  const standard = data.held_out
    ? { label: "held-out", photos: "the held-out photos" }
    : generated
      ? { label: "to all", photos: "all references" }
      : { label: "to the others", photos: "the other references" };

  const kindOf = (card) => [make("b", "", `${data.kinds[card.kind].mark} ${card.kind}`), ` \u2013 ${card.says}`];

  function drawPair(card) {
    const group = data.groups[card.group];
    const band = data.bands[card.band];
    const compared = isNumber(card.nearest);
    const left = make("figure", "", make("figcaption", "", generated ? "Generated" : "Reference"), picture(card.row));
    const right = make("figure", "", make("figcaption", "", generated ? "Nearest reference" : "Most similar other"));
    right.append(compared ? picture(card.nearest) : make("div", "picture empty", card.failure ?? "Nothing to compare it with"));

    const verdict = make("div", "verdict");
    if (isNumber(card.nearest_similarity)) verdict.append(make("span", "value", card.nearest_similarity.toFixed(3)));
    // Between two references the bands would be out of place: photos of one person in one light are alike.
    if (generated || !compared) verdict.append(make("span", "band", `${band.mark} ${card.band}`));
    if (card.note) {
      const note = make("span", "hint", card.note.split(/[;:]/)[0]);
      note.title = card.note;
      verdict.append(note);
    } else if (isNumber(card.similarity)) {
      const hint = make("span", "hint", `${standard.label} ${card.similarity.toFixed(3)}`);
      hint.title = `Similarity to the centroid of ${standard.photos}`;
      verdict.append(hint);
    }

    const names = make("div", "names");
    if (generated) names.append(make("div", "", swatch(group), named("group", group.label)));
    names.append(make("div", "", make("span", "role", generated ? "\u25a1" : "\u25cb"), named("file", files[card.row])));
    if (compared) names.append(make("div", "", make("span", "role", "\u2192"), named("reference", files[card.nearest])));

    const item = make("li", "pair", make("div", "pictures", left, right), verdict);
    if (card.kind) {
      const says = make("div", "kind", ...kindOf(card));
      says.style.setProperty("--kind", data.kinds[card.kind].colour);
      says.title = card.says;
      item.append(says);
    }
    item.append(names);
    item.tabIndex = 0;
    item.addEventListener("click", () => viewer.open(card.row));
    item.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target !== item) return;
      event.preventDefault();
      viewer.open(card.row);
    });
    item.style.setProperty("--band", generated || !compared ? band.colour : "#a855f7");
    item.dataset.band = card.band;
    return item;
  }

  const most = Math.max(1, ...data.ranking.slice(0, 1).map((entry) => entry.hits));

  function drawRank(entry) {
    const text = make("span", "", named("", files[entry.row]));
    const place = make("span", "place", entry.failure ? "\u2013" : `${entry.rank}.`);
    if (entry.failure) {
      text.append(make("span", "failure", entry.failure));
      return make("li", "rank-row", make("div", "rank", place, picture(entry.row), text, make("span", "hits", "\u2013")));
    }
    const bar = make("span", "bar");
    bar.style.width = `${(100 * entry.hits) / most}%`;
    text.append(bar);
    const button = make("button", "rank", place, picture(entry.row), text, make("span", "hits", entry.hits.toLocaleString("en")));
    button.type = "button";
    button.disabled = entry.hits === 0;
    button.dataset.row = entry.row;
    button.setAttribute("aria-pressed", String(only === entry.row));
    button.addEventListener("click", () => {
      only = only === entry.row ? null : entry.row;
      refresh();
    });
    return make("li", "rank-row", button);
  }

  const cardOf = new Map(data.cards.map((card) => [card.row, card]));
  let shownRows = []; // in the order on the page, for the viewer's arrows
  const told = make("p", "told");
  byId("viewer-numbers").before(told);
  data.told = (row) => {
    const card = cardOf.get(row);
    told.replaceChildren(...(card?.kind ? kindOf(card) : []));
    if (card?.kind) told.style.setProperty("--kind", data.kinds[card.kind].colour);
  };
  const viewer = pictureViewer(data, () => shownRows);

  const search = byId("search");
  const groupFilter = byId("group");
  const sort = byId("sort");
  const bandButtons = [...document.querySelectorAll("#bands button")];
  const kindButtons = [...document.querySelectorAll("#kinds button")];
  const pressed = (buttons, name) =>
    new Set(buttons.filter((button) => button.getAttribute("aria-pressed") === "true").map((button) => button.dataset[name]));
  const plain = (text) => text.normalize("NFC").toLowerCase();
  const searchable = data.cards.map((card) => plain(files[card.row]));
  let only = null; // the reference whose copies alone are shown

  const pairs = new Windowed(byId("pairs"), null, { leastWidth: 286, height: 352, gap: 14, draw: drawPair });
  const ranks = byId("ranks")
    && new Windowed(byId("ranks"), byId("ranks-scroll"), { leastWidth: 10000, height: 64, gap: 2, draw: drawRank });

  function chosen() {
    const text = plain(search.value.trim());
    const group = groupFilter?.value ?? "";
    const bands = pressed(bandButtons, "band");
    const kinds = pressed(kindButtons, "kind");
    return data.cards.filter((card, i) =>
      (!text || searchable[i].includes(text))
      && (group === "" || card.group === Number(group))
      && (!bands.size || bands.has(card.band))
      && (!kinds.size || kinds.has(card.kind))
      && (only === null || card.nearest === only));
  }

  const kindOrder = Object.keys(data.kinds);
  const urgency = (card) => (card.kind ? kindOrder.indexOf(card.kind) : kindOrder.length);

  // What has no similarity comes last in both directions; equals keep the order of the files.
  function inOrder(cards) {
    const unmeasured = (card) => !isNumber(card.nearest_similarity);
    const sign = sort.value === "lowest" ? 1 : -1;
    return cards.sort((a, b) =>
      (sort.value === "group" ? a.group - b.group : 0)
      || (sort.value === "kind" ? urgency(a) - urgency(b) : 0)
      || unmeasured(a) - unmeasured(b)
      || (unmeasured(a) ? 0 : sign * (a.nearest_similarity - b.nearest_similarity))
      || a.row - b.row);
  }

  function refresh() {
    const cards = inOrder(chosen());
    shownRows = cards.map((card) => card.row);
    pairs.show(cards);
    const unit = generated ? "generated images" : "references";
    const shown = `${cards.length.toLocaleString("en")} of ${data.cards.length.toLocaleString("en")} ${unit}`;
    byId("shown").textContent = shown;
    byId("nothing").hidden = cards.length > 0;
    byId("nothing").textContent = data.cards.length ? "Nothing fits these filters." : "There are no images in this run.";
    byId("only").hidden = only === null;
    byId("only").textContent = only === null ? "" : `Nearest to ${files[only]} \u2715`;
    for (const button of document.querySelectorAll("#ranks button")) {
      button.setAttribute("aria-pressed", String(button.dataset.row === String(only)));
    }
  }

  byId("tools").addEventListener("input", refresh);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => {
    byId("tools").reset();
    only = null;
    for (const button of [...kindButtons, ...bandButtons]) button.setAttribute("aria-pressed", "false");
    refresh();
  });
  byId("only").addEventListener("click", () => {
    only = null;
    refresh();
  });
  for (const button of [...kindButtons, ...bandButtons]) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      refresh();
    });
  }

  refresh();
  ranks?.show(data.ranking);
  document.documentElement.dataset.ready = "yes";
})();
