/* The table of groups: sorted by its headings, verdicts that open, and a click that shows one group alone. */
"use strict";

/* `alone(group)` shows a group alone in all charts, or all of them again where it already is. */
function rankingTable(alone) {
  const table = document.getElementById("numbers");
  const headings = [...table.tHead.rows[0].cells];
  const first = [...table.tBodies];

  function valueOf(body, column) {
    const text = body.rows[0].cells[column].dataset.value;
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  }

  // What was not measured stays last whichever way the rest is sorted; real photos stay where they are.
  function compare(column, sign) {
    return (one, other) => {
      const [a, b] = [valueOf(one, column), valueOf(other, column)];
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
    };
  }

  function sort(column) {
    const heading = headings[column];
    const ways = heading.querySelector("button").dataset.order === "up" ? ["ascending", "descending"] : ["descending", "ascending"];
    const next = ways[heading.ariaSort === "none" ? 0 : heading.ariaSort === ways[0] ? 1 : 2] ?? "none"; // the third click undoes it
    for (const one of headings) one.ariaSort = one === heading ? next : "none";
    const free = first.filter((body) => !body.classList.contains("fixed"));
    const sorted = next === "none" ? free : [...free].sort(compare(column, next === "ascending" ? 1 : -1));
    const places = first.map((body) => (body.classList.contains("fixed") ? body : sorted.shift()));
    table.append(...places);
  }

  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => sort(column)));

  function tellWhy(body) {
    const said = body.querySelector(".said");
    said.hidden = !said.hidden;
    for (const chip of body.querySelectorAll("button.chip")) chip.ariaExpanded = String(!said.hidden);
  }

  for (const body of first) {
    body.rows[0].addEventListener("click", (event) => {
      if (event.target.closest("button.chip")) tellWhy(body);
      else if (!String(getSelection())) alone(Number(body.dataset.group)); // not while text is being marked
    });
  }

  return { mark: (group) => first.forEach((body) => body.classList.toggle("alone", Number(body.dataset.group) === group)) };
}
