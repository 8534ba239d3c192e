// The table of cells in the report of a sweep sorts by its headings. Everything else on that page needs no script.
"use strict";
(() => {
  const { byId, h, ready } = Report;
  const table = byId("cells-table");
  const heads = [...table.tHead.rows[0].cells];
  const first = [...table.tBodies[0].rows]; // As Python ordered them
  const value = (row, at) => {
    const text = row.cells[at].dataset.sort;
    return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  };

  function sort(at, head) {
    const was = head.getAttribute("aria-sort");
    const now = was === "descending" ? "ascending" : was === "ascending" ? "" : "descending";
    for (const each of heads) each.removeAttribute("aria-sort");
    if (now) head.setAttribute("aria-sort", now);
    const rows = now
      ? [...first].sort((one, other) => {
          const [a, b] = [value(one, at), value(other, at)];
          if (a === "" || b === "") return (a === "") - (b === ""); // What is not known stands last
          const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
          return now === "ascending" ? order : -order;
        })
      : first;
    table.tBodies[0].replaceChildren(...rows);
  }

  heads.forEach((head, at) => {
    if (!first.length || first[0].cells[at].dataset.sort === undefined) return;
    const words = head.textContent;
    head.replaceChildren(h("button", { type: "button", title: "Sort by " + words, click: () => sort(at, head) }, words));
  });
  ready();
})();
