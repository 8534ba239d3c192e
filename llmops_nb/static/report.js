// The table of items and the panel of one item, in a report.
//
// All data is hostile: it was written by models, users and documents. So it only ever becomes text, through h() below;
// nothing here writes HTML (the page's policy forbids it too), no name from the data becomes an attribute name, and an
// address is always a '#' with encoded parameters. What an item means was decided in Python; this file only shows it.
//
// Everything a reader has chosen stands behind the '#' of the address: #metric=correct&slice=fact&item=w1. A link in the
// table of metrics is therefore just a link, a view can be sent to a colleague, and the browser's Back works.
"use strict";
(() => {
  const PAGE = 50; // Rows drawn at once
  const KEYS = ["q", "outcome", "slice", "split", "metric", "sort", "item"];
  const TONES = { error: "poor", wrong: "poor", abstained: "unsure", unscored: "", declined: "good", right: "good" };
  const byId = (id) => document.getElementById(id);
  const list = (value) => (Array.isArray(value) ? value : []);

  let data = { rows: [], metrics: [], columns: [], outcomes: [], headline: "" };
  let state = {}; // What stands behind the '#'
  let rows = []; // The rows that pass the filters, in order
  let page = 0;

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
  const outcomeWords = (key) => data.outcomes.find(([known]) => known === key)?.[1] || key;
  const outcomeOf = (row) => h("span", { class: "chip " + TONES[row.outcome] }, outcomeWords(row.outcome));

  // ── State ──────────────────────────────────────────────────────────────────────────────────────────────────────
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
      if (event && !left && (state.metric !== before.metric || state.slice !== before.slice)) byId("items").scrollIntoView();
    }
    show(data.rows.find((row) => row.record.item.id === state.item));
  }

  // ── Filter and sort ────────────────────────────────────────────────────────────────────────────────────────────
  const metricOf = (name) => data.metrics.find((metric) => metric.name === name);

  function passes(row, words, score) {
    const item = row.record.item;
    return (
      (!state.slice || list(item.slices).includes(state.slice) || item.split === state.slice) &&
      (!state.split || item.split === state.split) &&
      (!state.outcome || row.outcome === state.outcome || (state.outcome === "scorer" && Object.values(row.values).includes(null))) &&
      (!score || score in row.values || row.outcome === "error") &&
      words.every((word) => row.text.includes(word))
    );
  }

  // How bad a row is, for "worst first": larger is worse, no value at all is worst.
  function badness(row, metric) {
    if (!metric) return -data.outcomes.findIndex(([key]) => key === row.outcome);
    const value = row.values[metric.score];
    if (value === undefined || value === null) return Infinity;
    return metric.better === "lower" ? value : -value;
  }

  const COLUMNS = {
    outcome: { label: "Outcome", value: (row) => -badness(row) },
    id: { label: "Item", value: (row) => row.record.item.id },
    question: { label: "Question", value: (row) => say(row.record.item.question) },
    answer: { label: "Answer", value: (row) => answerText(row) },
    cost: { label: "Cost", number: true, value: (row) => usageOf(row).cost, text: (row) => row.texts.cost },
    latency: { label: "Latency", number: true, value: (row) => usageOf(row).latency, text: (row) => row.texts.latency },
  };
  const usageOf = (row) => (row.record.answer && row.record.answer.usage) || {};
  const answerText = (row) => (row.record.answer ? say(row.record.answer.text) : row.record.error ? row.record.error.message : "");
  const scoreColumn = (name) => ({ label: label(name), number: true, value: (row) => row.values[name], text: (row) => shown(row, name), poor: (row) => row.values[name] < 0.5 });
  const columnOf = (key) => (Object.hasOwn(COLUMNS, key) ? COLUMNS[key] : scoreColumn(key));
  const shown = (row, name) => (row.values[name] === null ? "failed" : name in row.values ? row.shown[name] : "—");

  function compare(one, other) {
    const key = state.sort.replace(/^-/, "");
    if (!key) {
      const metric = metricOf(state.metric);
      const difference = badness(other, metric) - badness(one, metric);
      return difference || badness(other) - badness(one) || 0; // Infinity - Infinity is NaN: equally bad
    }
    const [a, b] = [columnOf(key).value(one), columnOf(key).value(other)];
    if (typeof a !== "number" && typeof a !== "string") return typeof b === "number" || typeof b === "string" ? 1 : 0;
    if (typeof b !== "number" && typeof b !== "string") return -1;
    const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return state.sort.startsWith("-") ? -order : order;
  }

  // ── The table ──────────────────────────────────────────────────────────────────────────────────────────────────
  function columns() {
    const metric = metricOf(state.metric);
    const scores = metric && !["s", "USD"].includes(metric.unit) ? [metric.score, ...data.columns.filter((name) => name !== metric.score)] : data.columns;
    return ["outcome", "id", "question", "answer", ...scores.slice(0, 3), "cost", "latency"];
  }

  function header(key) {
    const column = columnOf(key);
    const sorted = state.sort === key ? "ascending" : state.sort === "-" + key ? "descending" : undefined;
    const next = sorted === "ascending" ? "-" + key : sorted === "descending" ? "" : key;
    const arrow = sorted ? (sorted === "ascending" ? " ↑" : " ↓") : "";
    return h("th", { scope: "col", class: column.number && "number", "aria-sort": sorted, "data-key": key },
      h("button", { type: "button", title: "Sort by " + column.label, click: () => change({ sort: next }) }, column.label + arrow));
  }

  function line(row, keys) {
    const cells = keys.map((key) => {
      const column = columnOf(key);
      if (key === "outcome") return h("td", {}, outcomeOf(row));
      if (key === "id") return h("td", { class: "name" }, h("a", { href: address({ item: row.record.item.id }), tabindex: "-1" }, row.record.item.id));
      if (!column.number) return h("td", { class: "wordy" }, h("span", { class: key === "answer" && row.outcome === "error" ? "words alert" : "words" }, say(column.value(row))));
      return h("td", { class: "number" + (column.poor && column.poor(row) ? " below" : ""), "data-label": column.label }, say(column.text(row)));
    });
    return h("tr", { tabindex: "-1", "data-id": row.record.item.id }, cells);
  }

  function draw() {
    for (const key of ["q", "outcome", "slice", "split", "metric"]) {
      const control = byId(key);
      if (control && control.value !== state[key] && document.activeElement !== control) control.value = state[key];
    }
    const metric = metricOf(state.metric);
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    rows = data.rows.filter((row) => passes(row, words, metric && metric.score)).sort(compare);
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.min(page, pages - 1);
    const keys = columns();
    const widths = { outcome: 126, id: 116, question: null, answer: null, cost: 84, latency: 80 };
    const table = byId("table");
    table.querySelector("colgroup")?.remove();
    table.prepend(h("colgroup", {}, keys.map((key) => h("col", { width: key in widths ? widths[key] : 106 }))));
    table.tHead.replaceChildren(h("tr", {}, keys.map(header)));
    const visible = rows.slice(page * PAGE, page * PAGE + PAGE).map((row) => line(row, keys));
    if (visible.length) visible[0].tabIndex = 0;
    const nothing = data.rows.length ? "No item passes these filters." : "No item is done yet.";
    table.tBodies[0].replaceChildren(...(visible.length ? visible : [h("tr", { class: "void" }, h("td", { colspan: keys.length }, nothing))]));
    const filtered = KEYS.some((key) => state[key] && key !== "item" && key !== "sort");
    const order = state.sort ? "" : state.metric ? `, worst ${label(state.metric)} first` : ", worst first";
    const behind = state.metric || state.slice ? ` behind ${[state.metric && label(state.metric), state.slice && `slice ${state.slice}`].filter(Boolean).join(", ")}` : "";
    byId("found").textContent = filtered ? `${count(rows.length)} of ${count(data.rows.length)} items${behind}${order}` : `${count(rows.length)} items${order}`;
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
    if (body.rows[0].dataset.id !== rows[page * PAGE]?.record.item.id) draw();
    for (const each of body.rows) each.tabIndex = -1;
    body.rows[index].tabIndex = 0;
    body.rows[index].focus();
  }

  // ── Marking words in a text ────────────────────────────────────────────────────────────────────────────────────
  // Ranges are [start, end, make]; those that overlap an earlier one are left out.
  function marked(text, ranges) {
    const pieces = [];
    let at = 0;
    for (const [start, end, make] of ranges.sort((a, b) => a[0] - b[0])) {
      if (start < at) continue;
      pieces.push(text.slice(at, start), make ? make(text.slice(start, end)) : h("mark", {}, text.slice(start, end)));
      at = end;
    }
    return [...pieces, text.slice(at)];
  }

  // Where some words stand in a text, one after the other, whatever the white space between them. Plain words are
  // not looked for inside longer ones: "or" is not in "for".
  function spots(text, words) {
    if (!words.length) return [];
    const inner = words.map((word) => word.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")).join("\\s+");
    const pattern = new RegExp((/^[\p{L}\p{N}_]/u.test(words[0]) ? "(?<![\\p{L}\\p{N}_])" : "") + inner + (/[\p{L}\p{N}_]$/u.test(words.at(-1)) ? "(?![\\p{L}\\p{N}_])" : ""), "giu");
    return [...text.matchAll(pattern)].map((found) => [found.index, found.index + found[0].length]);
  }

  const ENOUGH = 0.8; // Share of a quote that must be there, as for the score of retrieval
  const wordsOf = (text) => say(text).split(/\s+/).filter(Boolean);

  // Where a quote stands in a text; else the longest run of at least four of its words. `from` and `to` count the
  // quote's words that are there, because a chunk may end in the middle of a quote and the next one have the rest.
  function quoted(text, quote) {
    const wanted = wordsOf(quote).slice(0, 400);
    const whole = spots(text, wanted);
    if (whole.length) return { from: 0, to: wanted.length, share: 1, ranges: whole };
    const words = [...text.matchAll(/\S+/g)].slice(0, 2000);
    let best = { length: 0, last: 0, to: 0 };
    let above = new Uint16Array(words.length + 1);
    wanted.forEach((word, at) => {
      const runs = new Uint16Array(words.length + 1);
      words.forEach((found, place) => {
        if (found[0] !== word) return;
        runs[place + 1] = above[place] + 1;
        if (runs[place + 1] > best.length) best = { length: runs[place + 1], last: place, to: at + 1 };
      });
      above = runs;
    });
    if (best.length < 4) return { from: 0, to: 0, share: 0, ranges: [] };
    const last = words[best.last];
    return { from: best.to - best.length, to: best.to, share: best.length / wanted.length, ranges: [[words[best.last - best.length + 1].index, last.index + last[0].length]] };
  }

  // ── The panel of one item ──────────────────────────────────────────────────────────────────────────────────────
  const section = (title, ...content) => [h("h3", {}, title), ...content];
  const pairs = (values) => h("dl", { class: "pairs" }, values.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : say(value))]));
  const whole = (text) => h("code", { class: "whole" }, say(text));

  // Which passages hold which evidence: the one question that tells retrieval's fault from the model's.
  function evidenceIn(item, passages) {
    return list(item.evidence).map((evidence) => {
      const places = passages.map(({ chunk }, place) => ({ place, ...(chunk.document === evidence.document ? quoted(say(chunk.text), evidence.quote) : { share: 0, ranges: [] }) })).filter((found) => found.share);
      const covered = new Set(places.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, step) => from + step)));
      return { ...evidence, places, held: covered.size >= ENOUGH * Math.min(400, wordsOf(evidence.quote).length) };
    });
  }

  const named = (places) => {
    const numbers = [...new Set(places.map((found) => found.place + 1))].sort((a, b) => a - b);
    return (numbers.length === 1 ? "passage " : "passages ") + numbers.join(", ");
  };

  function trail(row, evidence) {
    const { item, answer, error } = row.record;
    const steps = [];
    if (error) steps.push(["Call", "poor", `${say(error.kind)}, ${say(error.code)}: ${say(error.message)}${error.retryable ? " Another try could succeed." : ""}`]);
    if (answer && evidence.length) {
      const held = evidence.filter((each) => each.held);
      const places = held.flatMap((each) => each.places);
      steps.push(held.length === evidence.length ? ["Retrieved", "good", `All the evidence, in ${named(places)}.`]
        : held.length ? ["Retrieved", "unsure", `${held.length} of ${evidence.length} pieces of evidence, in ${named(places)}.`]
        : ["Retrieved", "poor", "The passages do not hold the evidence: look at retrieval and chunking first."]);
      const cited = list(answer.citations).map((citation) => citation.chunk);
      if (held.length) {
        const hit = places.some((found) => cited.includes(answer.passages[found.place].chunk.id));
        steps.push(["Cited", hit ? "good" : cited.length ? "poor" : "unsure", hit ? "A passage that holds evidence." : cited.length ? "Other passages than those with the evidence." : "Nothing."]);
      }
    }
    if (answer) steps.push(["Answer", TONES[row.outcome], answered(row, item)]);
    return h("ul", { class: "trail", "aria-label": "From evidence to answer" }, steps.map(([name, tone, words]) => h("li", { class: tone }, h("span", {}, name), h("span", {}, words))));
  }

  function answered(row, item) {
    const score = data.headline && data.headline in row.values ? `, ${label(data.headline)} ${shown(row, data.headline)}` : "";
    const why = { abstained: "Abstained, though the corpus holds the answer", declined: "Rightly abstained", wrong: item.answerable === false ? "Answered, though the corpus does not hold it" : "Wrong", right: "Right", unscored: "Not scored" }[row.outcome];
    return `${why}${score}.`;
  }

  function answerBox(row) {
    const { item, answer } = row.record;
    if (!answer) return h("p", { class: "text soft" }, "There is no answer.");
    const text = say(answer.text);
    const facts = list(item.facts).flat().filter(Boolean).flatMap((wording) => spots(text, wordsOf(wording)));
    const known = new Map(list(answer.citations).map((citation) => [citation.number, citation.chunk]));
    const cites = [...text.matchAll(/\[(\d{1,4})\]/g)].filter((found) => known.has(Number(found[1]))).map((found) => {
      const place = list(answer.passages).findIndex((passage) => passage.chunk.id === known.get(Number(found[1])));
      const make = (words) => place < 0 ? h("span", { class: "cite lost", title: "Points at no passage" }, words)
        : h("button", { type: "button", class: "cite", title: "Show passage " + (place + 1), click: () => byId("passage-" + place).scrollIntoView({ block: "start" }) }, words);
      return [found.index, found.index + found[0].length, make];
    });
    return h("p", { class: "text" }, marked(text, [...cites, ...facts]));
  }

  function scoresTable(row) {
    const scores = list(row.record.scores);
    if (!scores.length) return h("p", { class: "soft" }, "No scorer was asked.");
    return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Score"), h("th", { scope: "col", class: "number" }, "Value"), h("th", { scope: "col" }, "Why"))),
      h("tbody", {}, scores.map((score) => h("tr", {}, h("th", { scope: "row" }, label(score.name)),
        h("td", { class: "number" + (score.error ? " alert" : "") }, score.error ? "failed" : shown(row, score.name)),
        h("td", { class: score.error ? "alert" : "soft" }, score.error || score.why || (score.value === null || score.value === undefined ? "does not apply" : "")))))));
  }

  function passageBox(passage, place, evidence, cited) {
    const chunk = passage.chunk;
    const found = evidence.flatMap((each) => each.places.filter((one) => one.place === place));
    const held = found.some((one) => one.share >= ENOUGH);
    const stages = Object.entries(passage.scores || {});
    return h("article", { class: "passage" + (held ? " held" : ""), id: "passage-" + place },
      h("header", {}, h("strong", {}, `${place + 1} · ${say(chunk.id)}`), held ? h("span", { class: "chip good" }, "holds evidence") : found.length ? h("span", { class: "chip unsure" }, "part of the evidence") : null,
        cited.includes(chunk.id) && h("span", { class: "chip" }, "cited"), h("span", { class: "soft" }, [chunk.heading, `${say(chunk.document)}, characters ${say(chunk.start)}–${say(chunk.end)}`].filter(Boolean).join(" · "))),
      h("p", {}, marked(say(chunk.text), found.flatMap((one) => one.ranges))),
      h("footer", {}, (stages.length ? stages : [["score", passage.score]]).map(([stage, score]) => h("span", {}, `${stage} ${short(score)}`)), chunk.version && h("span", { title: chunk.version }, "version " + chunk.version.slice(0, 12))));
  }

  function messageBox(message) {
    const text = say(message.content);
    return h("details", { class: "message", open: true }, h("summary", {}, `${say(message.role)} · ${count(text.length)} characters`), h("p", { class: "text mono" }, text));
  }

  function usagePairs(row) {
    const { answer, at } = row.record;
    const usage = usageOf(row);
    if (!answer) return pairs([["Took", row.texts.seconds], ["At", row.texts.at]]);
    return pairs([
      ["Model", answer.model], ["Tokens", `${row.texts.read} read, ${row.texts.written} written`], usage.cached_tokens && ["Provider's cache", `${count(usage.cached_tokens)} of the tokens read`],
      ["Latency of the model", row.texts.latency], ["Whole item", row.texts.seconds], ["Cost", `${row.texts.cost} at list price, ${row.texts.spent} spent`], ["Answered by", usage.cached ? "our cache" : "the model"],
      ["Attempts", usage.attempts], ["Finish", answer.finish], ["Trace", answer.trace_id ? whole(answer.trace_id) : "not traced"], at && ["At", row.texts.at],
    ]);
  }

  function panel(row) {
    const { item, answer } = row.record;
    const passages = list(answer && answer.passages).filter((passage) => passage.chunk);
    const evidence = evidenceIn(item, passages);
    const cited = list(answer && answer.citations).map((citation) => citation.chunk);
    const place = rows.indexOf(row);
    const step = (by, words, key) => h("button", { type: "button", id: "step" + by, title: `${words} item (${key})`, disabled: place < 0 || !rows[place + by], click: () => go(by) }, words);
    const json = h("pre", { class: "text mono" });
    return [
      h("div", { class: "panel-head" }, h("h2", { id: "panel-title", tabindex: "-1" }, item.id), outcomeOf(row), place >= 0 && h("small", {}, `${count(place + 1)} of ${count(rows.length)}`),
        h("div", { class: "tools" }, step(-1, "Previous", "←"), step(1, "Next", "→"), copyButton("Copy link", () => location.href), h("button", { type: "button", title: "Close (Esc)", click: close }, "Close"))),
      h("div", { class: "panel-body" },
        h("p", { class: "lead" }, say(item.question)),
        h("p", { class: "tags" }, [...list(item.slices), item.split && `split ${item.split}`, item.answerable === false && "not answerable from the corpus", item.origin && `from ${item.origin}`].filter(Boolean).map((tag) => h("span", { class: "chip" }, tag))),
        item.note && h("p", { class: "soft" }, item.note),
        trail(row, evidence),
        h("div", { class: "pair" }, h("div", {}, section("Expected", h("p", { class: "text" }, say(item.expected)))), h("div", {}, section("Answer", answerBox(row)))),
        list(item.facts).length ? section("Facts it must state, each in any of these wordings (marked in the answer)", h("ul", { class: "plain" }, item.facts.map((fact) => h("li", {}, list(fact).join(" / "))))) : null,
        section("Scores", scoresTable(row)),
        list(answer && answer.findings).length ? section("What guards saw", h("ul", { class: "plain" }, answer.findings.map((finding) => h("li", {}, `${say(finding.guard)}: ${say(finding.kind)}. ${finding.why || ""}${finding.blocks ? " Blocked." : ""}`)))) : null,
        evidence.length ? section("Evidence", h("ul", { class: "plain" }, evidence.map((each) => h("li", {}, h("q", {}, say(each.quote)), h("small", {}, ` ${say(each.document)} · ${each.held ? "in " + named(each.places) : each.places.length ? "only a part is in " + named(each.places) : "in no passage"}`))))) : null,
        answer && section(`Passages (${passages.length})`, passages.length ? passages.map((passage, index) => passageBox(passage, index, evidence, cited)) : h("p", { class: "soft" }, "Nothing was retrieved.")),
        answer && section("Prompt as it was sent", list(answer.messages).length ? answer.messages.map(messageBox) : h("p", { class: "soft" }, "Not recorded.")),
        section("What it took", usagePairs(row)),
        h("details", { class: "fold", toggle: () => (json.textContent = JSON.stringify(row.record, null, 2)) }, h("summary", {}, "The whole record as JSON"), json)),
    ];
  }

  function show(row) {
    const dialog = byId("panel");
    if (!row) {
      if (dialog.open) dialog.close();
      return;
    }
    dialog.dataset.last = row.record.item.id;
    dialog.replaceChildren(...panel(row));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    byId("panel-title").focus({ preventScroll: true });
  }

  function close() {
    change({ item: "" });
  }

  // To a neighbour in the filtered table; the table follows, so that closing leaves the reader at the right row.
  function go(by) {
    const place = rows.findIndex((row) => row.record.item.id === state.item);
    if (place < 0 || !rows[place + by]) return;
    if (Math.floor((place + by) / PAGE) !== page) turn(Math.floor((place + by) / PAGE) - page);
    change({ item: rows[place + by].record.item.id });
  }

  // ── Copying ────────────────────────────────────────────────────────────────────────────────────────────────────
  function copyButton(words, text) {
    if (!navigator.clipboard) return null; // Texts worth copying are selected whole by one click anyway
    return h("button", { type: "button", click: async (event) => {
      const button = event.currentTarget;
      await navigator.clipboard.writeText(text()).then(() => (button.textContent = "Copied"), () => (button.textContent = "Not allowed"));
      setTimeout(() => (button.textContent = words), 1500);
    } }, words);
  }

  // ── Wiring ─────────────────────────────────────────────────────────────────────────────────────────────────────
  function wire() {
    const body = byId("table").tBodies[0];
    const dialog = byId("panel");
    for (const key of ["outcome", "slice", "split", "metric"]) byId(key)?.addEventListener("change", (event) => change({ [key]: event.target.value }));
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
    for (const button of document.querySelectorAll("button[data-copy]")) button.replaceWith(copyButton("Copy", () => byId(button.dataset.copy).textContent) || "");
    addEventListener("hashchange", follow);
  }

  async function start() {
    try {
      data = await unpack(byId("data").textContent);
    } catch (problem) {
      byId("found").textContent = `The items could not be unpacked (${problem.name}). Any browser since 2023 can.`;
      return;
    }
    for (const row of data.rows) {
      const item = row.record.item;
      row.text = [item.id, item.question, item.expected, answerText(row), ...list(item.slices)].join("\n").toLowerCase();
    }
    state = read();
    wire();
    draw();
    if (state.item) show(data.rows.find((row) => row.record.item.id === state.item));
    document.documentElement.dataset.ready = "true";
  }

  start();
})();
