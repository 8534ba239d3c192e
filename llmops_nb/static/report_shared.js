// What the scripts of all reports share: elements, a table that filters, sorts and pages, and the panel of one item.
//
// All data is hostile: it was written by models, users and documents. So it only ever becomes text, through h() below;
// nothing here writes HTML (the page's policy forbids it too), no name from the data becomes an attribute name, and an
// address is always a '#' with encoded parameters. What an item means was decided in Python; this only shows it.
//
// Everything a reader has chosen stands behind the '#' of the address: #metric=correct&slice=fact&item=w1. A link in the
// table of metrics is therefore just a link, a view can be sent to a colleague, and the browser's Back works.
"use strict";
const Report = (() => {
  const PAGE = 50; // Rows drawn at once
  const byId = (id) => document.getElementById(id);
  const list = (value) => (Array.isArray(value) ? value : []);

  // ── Elements ───────────────────────────────────────────────────────────────────────────────────────────────────
  // h("p", { class: "soft" }, "text", element): strings become text nodes, nothing else.
  function h(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === undefined || value === null || value === false) continue;
      if (typeof value === "function") element.addEventListener(key, value);
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
    return element;
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  const say = (value) => (value === undefined || value === null || value === "" ? "—" : String(value));
  const label = (name) => say(name).replaceAll("_", " "); // task_success is read as "task success"
  const count = (value) => Number(value).toLocaleString("en");
  const short = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : say(value));
  const section = (title, ...content) => [h("h3", {}, title), ...content];
  const pairs = (values) => h("dl", { class: "pairs" }, values.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : say(value))]));
  const whole = (text) => h("code", { class: "whole" }, say(text));

  function copyButton(words, text) {
    if (!navigator.clipboard) return null; // Texts worth copying are selected whole by one click anyway
    return h("button", { type: "button", click: async (event) => {
      const button = event.currentTarget;
      await navigator.clipboard.writeText(text()).then(() => (button.textContent = "Copied"), () => (button.textContent = "Not allowed"));
      setTimeout(() => (button.textContent = words), 1500);
    } }, words);
  }

  // ── The table and its panel ────────────────────────────────────────────────────────────────────────────────────
  // `kind` says what is special about a report's items:
  //   controls  ids of the selects above the table, each a key of the address; `moving` are those that links use
  //   open      data → rows, each with .id and .text (what is searched, in lower case)
  //   passes    (row, state) → whether a row is shown;   order  (a, b, state) → worst first
  //   columns   state → keys;   column  key → { label, number, width, value(row), cell(row) → td }
  //   found     (state, shown, filtered) → the sentence above the table;   nothing  words for a table without rows
  //   title     row → elements of the panel's head;   panel  row → elements of its body
  function workbench(kind) {
    const KEYS = ["q", ...kind.controls, "sort", "item"];
    let all = []; // Every row of this file
    let rows = []; // Those that pass the filters, in order
    let state = {}; // What stands behind the '#'
    let page = 0;

    function read() {
      const given = new URLSearchParams(location.hash.slice(1));
      return Object.fromEntries(KEYS.map((key) => [key, given.get(key) || ""]));
    }

    function address(changes) {
      const wanted = Object.entries({ ...state, ...changes }).filter(([, value]) => value);
      return "#" + (wanted.length ? new URLSearchParams(wanted) : "items");
    }

    // Change the view without a new entry in the browser's history.
    function change(changes) {
      history.replaceState(null, "", address(changes));
      follow();
    }

    // Bring the page in line with its address.
    function follow(event) {
      if (location.hash && location.hash !== "#items" && !location.hash.includes("=")) return; // A section of the page
      const before = state;
      state = read();
      if (KEYS.some((key) => key !== "item" && state[key] !== before[key])) {
        page = 0;
        draw();
        const left = byId("panel").open || state.item;
        if (event && !left && kind.moving.some((key) => state[key] !== before[key])) byId("items").scrollIntoView();
      }
      show(all.find((row) => row.id === state.item));
    }

    function compare(one, other) {
      const key = state.sort.replace(/^-/, "");
      if (!key) return kind.order(one, other, state);
      const [a, b] = [kind.column(key).value(one), kind.column(key).value(other)];
      if (typeof a !== "number" && typeof a !== "string") return typeof b === "number" || typeof b === "string" ? 1 : 0;
      if (typeof b !== "number" && typeof b !== "string") return -1;
      const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
      return state.sort.startsWith("-") ? -order : order;
    }

    function header(key) {
      const column = kind.column(key);
      const sorted = state.sort === key ? "ascending" : state.sort === "-" + key ? "descending" : undefined;
      const next = sorted === "ascending" ? "-" + key : sorted === "descending" ? "" : key;
      const arrow = sorted ? (sorted === "ascending" ? " ↑" : " ↓") : "";
      return h("th", { scope: "col", class: column.number && "number", "aria-sort": sorted, "data-key": key },
        h("button", { type: "button", title: "Sort by " + column.label, click: () => change({ sort: next }) }, column.label + arrow));
    }

    function line(row, keys) {
      const cells = keys.map((key) => (key === "id" ? h("td", { class: "name" }, h("a", { href: address({ item: row.id }), tabindex: "-1" }, row.id)) : kind.column(key).cell(row)));
      return h("tr", { tabindex: "-1", "data-id": row.id }, cells);
    }

    function draw() {
      for (const key of ["q", ...kind.controls]) {
        const control = byId(key);
        if (control && control.value !== state[key] && document.activeElement !== control) control.value = state[key];
      }
      const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
      rows = all.filter((row) => kind.passes(row, state) && words.every((word) => row.text.includes(word))).sort(compare);
      const pages = Math.max(1, Math.ceil(rows.length / PAGE));
      page = Math.min(page, pages - 1);
      const keys = kind.columns(state);
      const table = byId("table");
      table.querySelector("colgroup")?.remove();
      table.prepend(h("colgroup", {}, keys.map((key) => h("col", { width: kind.column(key).width }))));
      table.tHead.replaceChildren(h("tr", {}, keys.map(header)));
      const visible = rows.slice(page * PAGE, page * PAGE + PAGE).map((row) => line(row, keys));
      if (visible.length) visible[0].tabIndex = 0;
      const nothing = all.length ? "No item passes these filters." : kind.nothing;
      table.tBodies[0].replaceChildren(...(visible.length ? visible : [h("tr", { class: "void" }, h("td", { colspan: keys.length }, nothing))]));
      const filtered = KEYS.some((key) => state[key] && key !== "item" && key !== "sort");
      byId("found").textContent = kind.found(state, filtered ? `${count(rows.length)} of ${count(all.length)}` : count(rows.length));
      byId("clear").hidden = !filtered;
      byId("pager").hidden = pages < 2;
      byId("where").textContent = `${count(page * PAGE + 1)}–${count(Math.min(rows.length, page * PAGE + PAGE))} of ${count(rows.length)}`;
      byId("before").disabled = page === 0;
      byId("after").disabled = page >= pages - 1;
    }

    function turn(by) {
      page += by;
      draw();
    }

    // Move the focus among the rows, turning pages at the ends.
    function focusRow(index) {
      const body = byId("table").tBodies[0];
      if (index < 0 && page > 0) [page, index] = [page - 1, PAGE - 1];
      else if (index >= body.rows.length && (page + 1) * PAGE < rows.length) [page, index] = [page + 1, 0];
      else index = Math.max(0, Math.min(index, body.rows.length - 1));
      if (body.rows[0].dataset.id !== rows[page * PAGE]?.id) draw();
      for (const each of body.rows) each.tabIndex = -1;
      body.rows[index].tabIndex = 0;
      body.rows[index].focus();
    }

    function panel(row) {
      const place = rows.indexOf(row);
      const step = (by, words, key) => h("button", { type: "button", id: "step" + by, title: `${words} item (${key})`, disabled: place < 0 || !rows[place + by], click: () => go(by) }, words);
      return [
        h("div", { class: "panel-head" }, h("h2", { id: "panel-title", tabindex: "-1" }, row.id), kind.title(row), place >= 0 && h("small", {}, `${count(place + 1)} of ${count(rows.length)}`),
          h("div", { class: "tools" }, step(-1, "Previous", "←"), step(1, "Next", "→"), copyButton("Copy link", () => location.href), h("button", { type: "button", title: "Close (Esc)", click: close }, "Close"))),
        h("div", { class: "panel-body" }, kind.panel(row)),
      ];
    }

    function show(row) {
      const dialog = byId("panel");
      if (!row) {
        if (dialog.open) dialog.close();
        return;
      }
      dialog.dataset.last = row.id;
      dialog.replaceChildren(...panel(row).filter(Boolean));
      if (!dialog.open) dialog.showModal();
      dialog.scrollTop = 0;
      byId("panel-title").focus({ preventScroll: true });
    }

    function close() {
      change({ item: "" });
    }

    // To a neighbour in the filtered table; the table follows, so that closing leaves the reader at the right row.
    function go(by) {
      const place = rows.findIndex((row) => row.id === state.item);
      if (place < 0 || !rows[place + by]) return;
      if (Math.floor((place + by) / PAGE) !== page) turn(Math.floor((place + by) / PAGE) - page);
      change({ item: rows[place + by].id });
    }

    function wire() {
      const body = byId("table").tBodies[0];
      const dialog = byId("panel");
      for (const key of kind.controls) byId(key)?.addEventListener("change", (event) => change({ [key]: event.target.value }));
      let waiting = 0;
      byId("q").addEventListener("input", (event) => {
        clearTimeout(waiting);
        waiting = setTimeout(() => change({ q: event.target.value.trim() }), 80);
      });
      byId("filters").addEventListener("submit", (event) => event.preventDefault());
      byId("clear").addEventListener("click", () => (byId("q").value = ""));
      byId("before").addEventListener("click", () => turn(-1));
      byId("after").addEventListener("click", () => turn(1));
      body.addEventListener("click", (event) => {
        const row = event.target.closest("tr[data-id]");
        if (row && !event.target.closest("a") && !String(getSelection())) location.hash = address({ item: row.dataset.id });
      });
      body.addEventListener("keydown", (event) => {
        const row = event.target.closest("tr[data-id]");
        if (!row) return;
        const moves = { ArrowDown: row.sectionRowIndex + 1, ArrowUp: row.sectionRowIndex - 1, Home: 0, End: body.rows.length - 1 };
        if (event.key in moves) focusRow(moves[event.key]);
        else if (event.key === "Enter" || event.key === " ") location.hash = address({ item: row.dataset.id });
        else return;
        event.preventDefault();
      });
      dialog.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        if (event.key === "ArrowLeft") go(-1);
        if (event.key === "ArrowRight") go(1);
      });
      dialog.addEventListener("click", (event) => event.target === dialog && close()); // Beside the panel
      dialog.addEventListener("close", () => {
        if (state.item && read().item === state.item) close(); // By Esc; unless the address is already at another item
        const row = [...body.rows].find((each) => each.dataset.id === dialog.dataset.last);
        if (row) focusRow(row.sectionRowIndex);
      });
      document.addEventListener("keydown", (event) => {
        if (event.key !== "/" || dialog.open || event.target.closest("input, select, textarea")) return;
        event.preventDefault();
        byId("q").focus();
      });
      addEventListener("hashchange", follow);
    }

    async function start() {
      let data;
      try {
        data = await unpack(byId("data").textContent);
      } catch (problem) {
        byId("found").textContent = `The items could not be unpacked (${problem.name}). Any browser since 2023 can.`;
        return;
      }
      all = kind.open(data);
      state = read();
      wire();
      draw();
      if (state.item) show(all.find((row) => row.id === state.item));
      ready();
    }

    start();
  }

  // What a page without items needs too.
  function ready() {
    for (const button of document.querySelectorAll("button[data-copy]")) button.replaceWith(copyButton("Copy", () => byId(button.dataset.copy).textContent) || "");
    document.documentElement.dataset.ready = "true";
  }

  return { byId, copyButton, count, h, label, list, pairs, ready, say, section, short, whole, workbench };
})();
