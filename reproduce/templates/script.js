"use strict";
// Tables: a click on a heading sorts by it, again the other way round; blank cells stay last.
const value = (row, column) => {
  const text = row.cells[column].innerText.trim();
  const number = parseFloat(text.replace(/^[<>≥≤=~(]+/, ""));
  return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      const full = rows.filter(([key]) => key !== null).sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
      body.append(...full.map(([, row]) => row), ...rows.filter(([key]) => key === null).map(([, row]) => row));
    });
  });
});
// Metrics that the paper does not print are out of the way until asked for; printed rows without a measurement on request.
const toggle = (section, rows, name, texts, hidden) => {
  if (!rows.length) return;
  const button = document.createElement("button");
  button.type = "button";
  const show = (away) => {
    rows.forEach((row) => row.classList.toggle(name, away));
    button.setAttribute("aria-pressed", !away);
    button.textContent = texts[Number(away)];
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-pressed") === "true"));
  section.querySelector(".controls").append(button);
  show(hidden);
};
document.querySelectorAll("section.table").forEach((section) => {
  const [all, beyond, unmeasured] = ["tbody tr", "tr.beyond", "tr.unmeasured"].map((rows) => section.querySelectorAll(rows));
  const more = `show ${beyond.length} rows of metrics beyond the paper`;
  toggle(section, beyond, "hidden", ["hide metrics beyond the paper", more], beyond.length < all.length);
  const without = `show ${unmeasured.length} printed rows without a measurement`;
  const measured = section.querySelectorAll("tbody tr:not(.unmeasured)").length;
  toggle(section, unmeasured, "away", ["hide printed rows without a measurement", without], measured > 0);
});
// A link to a run opens it.
const open = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let place = target; place; place = place.parentElement) if (place.tagName === "DETAILS") place.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", open);
document.querySelectorAll("a[href^='#']").forEach((link) => link.addEventListener("click", () => setTimeout(open)));
open();
document.querySelectorAll("button.all-runs").forEach((button) => {
  button.hidden = false;
  button.addEventListener("click", () => {
    const runs = [...document.querySelectorAll("details.run")];
    const opened = runs.every((run) => run.open);
    runs.forEach((run) => (run.open = !opened));
    button.textContent = opened ? "open every run" : "close every run";
  });
});
