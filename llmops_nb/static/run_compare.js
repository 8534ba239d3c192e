// RunCompare: the verdict on top, the items that flipped on the left, one of them with both answers on the right.
function draw(view, tools) {
  const { button, send, say, keys, at, own } = tools;
  const body = view.body || {};
  if (!body.runs) return [];
  const item = body.item;
  const [before, after] = body.runs;
  const marks = { same: "span", removed: "del", added: "ins" };
  const pieces = (list) => list.map(([kind, text]) => { // The blank before a changed word is not what changed
    const blank = kind === "same" || !text.trim() ? "" : text.slice(0, text.length - text.trimStart().length);
    return kind === "same" ? text : [blank, h(marks[kind] || "span", {}, text.slice(blank.length))];
  });
  const chip = (text, tone, more = {}) => h("span", { ...more, class: "chip " + (tone || "") }, text);
  const tones = { broken: "bad", fixed: "good", changed: "unsure", missing: "unsure", reworded: "" };

  // Filters: each sends all of them, so that what is shown is what the state says.
  const choose = (changes) => send("choose", { kinds: body.kinds.filter((k) => k.on).map((k) => k.kind), slice: body.slice, search: body.search, marked: body.marked, ...changes });
  const toggle = (kind) => choose({ kinds: body.kinds.filter((k) => (k.kind === kind ? !k.on : k.on)).map((k) => k.kind) });
  const later = (work, wait) => { clearTimeout(own.typing); own.typing = setTimeout(() => { if (!tools.signal.aborted) work(); }, wait); };

  const map = { j: () => send("step", { by: 1 }), k: () => send("step", { by: -1 }), "/": () => at("search").focus(), "]": () => send("turn", { page: body.page + 1 }), "[": () => send("turn", { page: body.page - 1 }) };
  map.ArrowDown = map.j; map.ArrowUp = map.k;
  map.Enter = () => (item ? at("answers").focus() : send("step", { by: 1 }));
  body.kinds.forEach((kind, n) => { map[String(n + 1)] = () => toggle(kind.kind); });
  if (item) Object.assign(map, { p: () => send("pin", { item: item.item, pinned: !item.pinned }), n: () => at("note:" + item.item)?.focus(), Escape: () => send("open", { item: "" }) });
  keys(map);
  say(item ? `${item.item}, ${item.word}, ${item.place}` : body.count);

  const run = (side) => h("span", { class: "rc-run" }, h("b", {}, side.label), side.label === side.id ? null : h("code", {}, side.id), h("small", { class: "soft" }, side.about));
  const head = h("header", { class: "rc-head" },
    h("h3", {}, h("bdi", {}, body.app)),
    h("p", { class: "rc-runs" }, run(before), h("span", { class: "rc-arrow", role: "img", "aria-label": "against" }, "→"), run(after)),
    body.differs.length ? h("p", { class: "soft" }, "What differs: ", body.differs.join("; ")) : null, body.notes.map((text) => h("p", { class: "soft" }, text)));

  const main = body.verdicts[0];
  const verdict = main ? h("section", { class: "rc-verdict " + main.tone, "aria-label": "Verdict" }, h("b", {}, main.outcome), h("p", {}, main.sentence)) : h("p", { class: "soft" }, "Nothing was measured in both runs.");

  const strip = (row) => {
    const [low, value, high] = row.strip;
    return svg("svg", { viewBox: "0 0 100 14", preserveAspectRatio: "none", class: "rc-strip " + row.tone, "aria-hidden": "true" },
      svg("line", { x1: 50, x2: 50, y1: 0, y2: 14, class: "zero" }),
      low !== null && high !== null ? svg("rect", { x: low, y: 5, width: Math.max(0.6, high - low), height: 4, rx: 1 }) : null,
      value !== null ? svg("line", { x1: value, x2: value, y1: 2, y2: 12, class: "value" }) : null);
  };
  const column = (text, attributes = {}) => h("th", { scope: "col", ...attributes }, text);
  function fold(part, title, content) {
    const on = body.parts.includes(part);
    return h("div", { class: "rc-part" }, h("button", { type: "button", class: "rc-fold", "aria-expanded": String(on), "data-keep": "part:" + part, click: () => send("unfold", { part, shown: !on }) }, h("span", { "aria-hidden": "true" }, on ? "▾" : "▸"), title), on ? content() : null);
  }

  const table = fold("metrics", `${body.verdicts.length} metrics: ${body.outcomes}`, () => h("div", { class: "scroll rc-metrics", tabindex: "0", role: "region", "aria-label": "Metrics" }, h("table", {},
    h("thead", {}, h("tr", {}, column("Metric"), column("Verdict"), column("Before", { class: "number" }), column("After", { class: "number" }), column("Difference", { class: "number" }), column("95 % interval"), column("Won / lost", { class: "number", title: "Items on which the later run was better, and worse" }), column("p", { class: "number", title: "Adjusted for the number of metrics" }))),
    h("tbody", {}, body.verdicts.map((row) => h("tr", { title: row.sentence },
      h("th", { scope: "row" }, row.metric, row.lower ? h("small", { class: "soft" }, " lower is better") : null), h("td", {}, chip(row.outcome, row.tone)), h("td", { class: "number" }, row.before), h("td", { class: "number" }, row.after), h("td", { class: "number" }, row.difference),
      h("td", { class: "rc-drawn" }, h("div", {}, strip(row), h("small", { class: "soft" }, row.range || "—"))), h("td", { class: "number" }, `${row.won} / ${row.lost}`), h("td", { class: "number" }, row.p)))))));

  const filters = h("div", { class: "row rc-filters", role: "search", "aria-label": "Filter the items" },
    h("div", { class: "rc-kinds", role: "group", "aria-label": "What happened" }, body.kinds.map((kind, n) => h("button", { type: "button", class: "rc-kind " + (tones[kind.kind] || ""), "aria-pressed": String(kind.on), "aria-keyshortcuts": String(n + 1), title: `Key ${n + 1}`, "data-keep": "kind:" + kind.kind, click: () => toggle(kind.kind) }, kind.word, h("b", {}, kind.count)))),
    body.slices.length ? h("label", {}, h("span", { class: "llmops-unseen" }, "Slice"), h("select", { "data-keep": "slice", change: (event) => choose({ slice: event.target.value }) }, h("option", { value: "" }, "all slices"), body.slices.map((name) => h("option", { value: name, selected: name === body.slice }, name)))) : null,
    h("label", { class: "grow" }, h("span", { class: "llmops-unseen" }, "Search"), h("input", { type: "search", placeholder: "Search questions, answers, ids", value: body.search, "data-keep": "search", autocomplete: "off", spellcheck: "false", input: (event) => { const text = event.target.value; later(() => choose({ search: text }), 350); } })),
    body.marks ? h("button", { type: "button", "aria-pressed": String(body.marked), "data-keep": "marked", click: () => choose({ marked: !body.marked }) }, `marked ${body.marks}`) : null);

  const aside = body.slice && body.aside.length ? h("p", { class: "soft" }, "In this slice: ", body.aside) : null;
  const list = h("div", { class: "rc-list" },
    h("div", { role: "listbox", "aria-label": "Items", class: "rc-items", "data-keep": `items ${body.page}` }, body.rows.map((row) =>
      h("div", { role: "option", class: "rc-row", "data-keep": "row:" + row.item, "aria-selected": String(item ? row.item === item.item : false), click: () => send("open", { item: row.item }) },
        h("div", { class: "rc-line" }, chip(row.word, tones[row.kind]), h("code", {}, row.item), row.pinned ? h("span", { title: "pinned", role: "img", "aria-label": "pinned" }, "★") : null, row.noted ? h("span", { title: "has a note", role: "img", "aria-label": "has a note" }, "✎") : null),
        h("div", { class: "rc-question" }, row.question), h("div", { class: "rc-glimpse" }, pieces(row.glimpse)))),
      body.rows.length ? null : h("p", { class: "soft rc-none" }, "No item passes these filters.")),
    h("div", { class: "row rc-pager" }, h("span", { class: "soft" }, body.count), body.pages > 1 ? [h("button", { type: "button", disabled: body.page === 0, "data-keep": "previous", "aria-label": "Previous page", click: map["["] }, "‹"), h("span", {}, `${body.page + 1} / ${body.pages}`), h("button", { type: "button", disabled: body.page + 1 >= body.pages, "data-keep": "next", "aria-label": "Next page", click: map["]"] }, "›")] : null));

  // The list follows the item that is opened; the notebook around does not move.
  const follow = () => { const row = item && at("row:" + item.item), box = row && row.parentElement; if (row) box.scrollTop = Math.max(row.offsetTop + row.offsetHeight - box.clientHeight, Math.min(box.scrollTop, row.offsetTop)); };
  if (item && own.opened !== item.item) requestAnimationFrame(follow);
  own.opened = item ? item.item : "";

  return [head, verdict, table, filters, aside, h("div", { class: "rc-split" }, list, item ? detail() : h("p", { class: "soft rc-empty" }, "Choose an item to see both answers."))];

  function answer(run, name, side, took) {
    const text = item.answers[side];
    return h("section", { class: "rc-answer", "aria-label": `${name}: ${run.label}` }, h("h4", {}, name, h("span", { class: "soft" }, run.label)),
      h("div", { class: "words", "data-keep": `${side} ${item.item}` }, text.length ? pieces(text) : h("span", { class: "soft" }, took.startsWith("no answer") ? took : "(an empty answer)")), h("p", { class: "soft" }, h("small", {}, took)));
  }

  function detail() {
    const scores = h("table", { class: "rc-scores" }, h("thead", {}, h("tr", {}, column("Score"), column("Before"), column("After"))), h("tbody", {}, item.scores.map((row) =>
      h("tr", { class: row.tone }, h("th", { scope: "row" }, row.name), h("td", {}, h("b", {}, row.before), row.why_before ? h("small", { class: "soft" }, row.why_before) : null), h("td", {}, h("b", {}, row.after), row.tone ? h("span", { class: "rc-way", "aria-label": row.tone === "good" ? "better" : "worse" }, row.tone === "good" ? "▲" : "▼") : null, row.why_after ? h("small", { class: "soft" }, row.why_after) : null)))));
    const columns = (texts, n) => h("div", { class: "rc-columns", "data-keep": `sent ${n} ${item.item}` }, h("div", { class: "words" }, pieces(texts.before)), h("div", { class: "words" }, pieces(texts.after)));
    return h("article", { class: "rc-detail", "aria-label": "Item " + item.item },
      h("div", { class: "row" }, chip(item.word, tones[item.kind]), h("b", {}, h("code", {}, item.item)), item.slices.map((name) => chip(name)), h("span", { class: "soft" }, item.place),
        h("div", { class: "rc-steps" }, button("Back", map.k, { hint: "k", "data-keep": "back" }), button("Next", map.j, { hint: "j", "data-keep": "forth" }), button(item.pinned ? "Pinned" : "Pin", map.p, { hint: "p", "data-keep": "pin", "aria-pressed": String(item.pinned) }))),
      h("p", { class: "words rc-asked" }, item.question), item.expected ? h("p", { class: "words" }, h("small", { class: "soft" }, "Expected: "), item.expected) : null,
      h("div", { class: "rc-columns", tabindex: "0", "data-keep": "answers", role: "group", "aria-label": `Both answers; ${item.answers.share} differs` }, answer(before, "Before", "before", item.took[0]), answer(after, "After", "after", item.took[1])),
      item.scores.length ? scores : null,
      fold("prompts", "Prompts as they were sent", () => item.prompts.length ? item.prompts.map((message, n) => h("div", { class: "rc-message" }, h("small", { class: "soft" }, message.role), columns(message, n))) : h("p", { class: "soft" }, "No prompt was recorded.")),
      fold("passages", "Passages", () => item.passages.length ? h("table", {}, h("thead", {}, h("tr", {}, column("Passage"), column("Place before"), column("Place after"))), h("tbody", {}, item.passages.map((passage) => h("tr", {}, h("td", {}, h("details", { "data-keep": "passage:" + passage.id }, h("summary", {}, h("code", {}, passage.id)), h("p", { class: "soft" }, passage.heading), h("p", { class: "words" }, passage.text))), h("td", {}, passage.before), h("td", {}, passage.after))))) : h("p", { class: "soft" }, "Nothing was retrieved.")),
      h("label", { class: "rc-note" }, h("span", { class: "soft" }, "Note ", h("kbd", { "aria-hidden": "true" }, "n")), h("textarea", { rows: "2", value: item.note, placeholder: "What did you see? Kept with the comparison.", "data-keep": "note:" + item.item, input: (event) => { const text = event.target.value, key = item.item; later(() => send("note", { item: key, text }), 700); }, change: (event) => { clearTimeout(own.typing); if (event.target.value.trim() !== item.note) send("note", { item: item.item, text: event.target.value }); } })));
  }
}

export default widget(draw);
