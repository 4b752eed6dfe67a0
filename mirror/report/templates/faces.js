/* Opens a card with its faces, which are made when they are asked for; searches and orders the cards. */
(() => {
  "use strict";
  const rows = JSON.parse(document.getElementById("page-data").textContent);
  const blocks = [...document.querySelectorAll("script.pictures")];
  const parsed = new Map();
  const AT_ONCE = 300; // faces of one card; the rest on demand
  const list = document.getElementById("persons");
  const cards = [...list.children];

  function picture(place) {
    const size = 64; // as mirror/report/files.py makes the blocks
    const block = Math.floor(place / size);
    if (!parsed.has(block)) parsed.set(block, JSON.parse(blocks[block].textContent));
    return parsed.get(block)[place % size];
  }

  function tile(place) {
    const [face, name, link, score, yaw] = rows[place];
    const item = document.createElement("li");
    const source = picture(place);
    if (source) {
      const image = new Image();
      image.src = `data:image/jpeg;base64,${source}`;
      image.alt = "";
      image.decoding = "async";
      item.append(image);
    }
    const file = document.createElement(link ? "a" : "span");
    if (link) {
      file.href = link;
      file.target = "_blank";
      file.rel = "noreferrer";
    }
    file.className = "name";
    file.textContent = name;
    const facts = document.createElement("div");
    facts.className = "hint";
    facts.textContent = `face ${face}, score ${score.toFixed(2)}, yaw ${yaw}°`;
    item.append(file, facts);
    return item;
  }

  function fill(target, first, count) {
    const made = Math.min(count, AT_ONCE);
    for (let i = 0; i < made; i += 1) target.append(tile(first + i));
    if (made === count) return;
    const more = document.createElement("button");
    more.type = "button";
    more.className = "button more";
    more.textContent = `${(count - made).toLocaleString("en")} more`;
    more.addEventListener("click", () => {
      more.remove();
      fill(target, first + made, count - made);
    });
    target.after(more);
  }

  function toggle(card) {
    const inside = card.querySelector(".inside");
    const isOpen = inside.hidden;
    inside.hidden = !isOpen;
    card.classList.toggle("open", isOpen);
    card.querySelector(".head").setAttribute("aria-expanded", String(isOpen));
    if (!isOpen || card.dataset.filled) return;
    card.dataset.filled = "yes";
    const [first, count, low] = ["first", "count", "low"].map((key) => Number(card.dataset[key]));
    const [clear, poor] = card.querySelectorAll(".faces");
    fill(clear, first, count - low);
    if (poor) fill(poor, first + count - low, low);
  }

  for (const card of document.querySelectorAll(".person")) {
    card.querySelector(".head").addEventListener("click", () => toggle(card));
  }

  const search = document.getElementById("search");
  const order = document.getElementById("order");
  const number = (card, key) => Number(card.dataset[key]);
  const ways = {
    count: (a, b) => number(b, "count") - number(a, "count") || number(a, "cluster") - number(b, "cluster"),
    name: (a, b) => !a.dataset.name - !b.dataset.name || a.dataset.name.localeCompare(b.dataset.name) || ways.count(a, b),
    cluster: (a, b) => number(a, "cluster") - number(b, "cluster"),
  };

  function arrange() {
    const asked = search.value.trim().toLocaleLowerCase();
    let found = 0;
    for (const card of cards.sort(ways[order.value])) {
      const called = card.dataset.name.toLocaleLowerCase();
      const fits = !asked || called.includes(asked) || `cluster ${card.dataset.cluster}`.endsWith(asked);
      card.hidden = !fits;
      found += fits;
      list.append(card);
    }
    document.getElementById("none").hidden = found > 0 || cards.length === 0;
    document.getElementById("shown").textContent = `${found} of ${cards.length} persons`;
  }
  search.addEventListener("input", arrange);
  order.addEventListener("change", arrange);
  arrange();
  document.documentElement.dataset.ready = "yes";
})();
