"use strict";
for (const figure of document.querySelectorAll("figure.table")) {
  const body = figure.querySelector("tbody");
  const heads = [...figure.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const numeric = [...body.rows].some((row) => "order" in row.cells[column].dataset);
      // Numbers from the largest at the first click, words from A.
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.order;
      const words = (row) => row.cells[column].textContent;
      body.append(...[...body.rows].sort((a, b) => {
        if (!numeric) return sign * words(a).localeCompare(words(b), "en", { numeric: true });
        if (key(a) === undefined || key(b) === undefined) {  // what isn't known comes last
          return (key(a) === undefined) - (key(b) === undefined);
        }
        return sign * (Number(key(a)) - Number(key(b)));
      }));
    });
  });
  figure.querySelector("input")?.addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
