// RetrievalTuner: settings on the left, the ranking with what is relevant in the middle, the baseline beside it, all questions below.
function draw(view, tools) {
  const { button, send, say, keys, at: keep, own, signal } = tools;
  const body = view.body || {};
  if (!body.query) return [];
  const { query, now, base, measured, offer } = body;
  const chip = (text, tone, more = {}) => h("span", { ...more, class: "chip " + (tone || "") }, text);
  const column = (text, attributes = {}) => h("th", { scope: "col", ...attributes }, text);
  const tones = { better: "good", worse: "bad", "not enough evidence": "unsure", equivalent: "" };
  const field = (label, input, more = "") => h("label", { class: "rt-field " + more }, h("span", { class: "soft" }, label), input);
  const later = (name, work, wait) => { own.timers = own.timers || {}; clearTimeout(own.timers[name]); own.timers[name] = setTimeout(() => { delete own.timers[name]; if (!signal.aborted) work(); }, wait); };

  // A slider sends its last place as soon as the one before was answered, so that it never runs ahead of what is drawn.
  own.flying = false;
  if (own.next) { const next = own.next; own.next = null; later("next", () => turn(...next), 0); }
  function turn(name, value) {
    if (own.flying) { own.next = [name, value]; return; }
    own.flying = true;
    setTimeout(() => { own.flying = false; }, 2000); // A kernel that is busy must not hold a slider for ever
    send("set", { name, value });
  }

  // The question.
  const ask = (event) => { const text = event.target.value; later("ask", () => send("ask", { text }), 250); };
  const question = h("section", { class: "rt-ask", "aria-label": "Question" },
    h("div", { class: "rt-line" },
      h("input", { type: "search", class: "rt-query", "aria-label": "Question", placeholder: "Type a question …", maxlength: String(query.longest), value: query.text, spellcheck: "false", "data-keep": "query", input: ask,
        keydown: (event) => { if (event.key === "Enter") { clearTimeout((own.timers || {}).ask); send("ask", { text: event.target.value }); } } }),
      query.item ? chip(query.split, "", { title: "Its split: only items to tune by are offered" }) : null),
    h("div", { class: "rt-line" },
      h("select", { class: "grow", "aria-label": "Question of the golden set", "data-keep": "item", change: (event) => send("pick", { item: event.target.value }) },
        h("option", { value: "", selected: !query.item }, "… or a question of the golden set"), body.items.map((one) => h("option", { value: one.id, selected: one.id === query.item }, `${one.id}: ${one.question}`))),
      h("input", { type: "search", class: "rt-find", "aria-label": "Offer only questions with these words", placeholder: "with the words …", value: body.find, "data-keep": "find", input: (event) => { const words = event.target.value; later("find", () => send("search", { words }), 300); } }),
      h("span", { class: "soft rt-place" }, body.place), button("Back", () => send("step", { by: -1 }), { hint: "k", "data-keep": "back" }), button("Next", () => send("step", { by: 1 }), { hint: "j", "data-keep": "forth" })),
    query.expected ? h("p", { class: "words" }, h("small", { class: "soft" }, "Expected: "), query.expected) : null,
    query.text && query.note ? h("p", { class: "soft" }, h("small", {}, query.note)) : null);

  // The settings. What costs something to change says so.
  const settings = h("section", { class: "rt-settings", "aria-label": "Settings" },
    body.groups.map((group) => { const rows = body.controls.filter((c) => c.group === group); return rows.length ? h("fieldset", { "data-keep": "group:" + group }, h("legend", {}, group, rows.some((c) => c.needs) ? h("span", { class: "rt-cost", title: rows.find((c) => c.needs).needs }, " ", group === "Chunks" ? "embeds on demand" : "") : null), rows.map(control)) : null; }),
    h("div", { class: "row" }, button("As the app is", () => send("reset", { to: "app" }), { "data-keep": "reset", disabled: !body.changed }), base.own ? button("As the baseline", () => send("reset", { to: "baseline" }), { "data-keep": "reset base", disabled: base.same }) : null));

  function control(c) {
    const id = "set:" + c.name, label = h("span", { class: "rt-name" }, c.label, c.changed ? h("span", { class: "rt-dot", role: "img", "aria-label": "changed", title: `In app.yaml: ${c.was}` }) : null);
    const about = { "data-keep": id, title: [c.needs, c.changed ? `in app.yaml: ${c.was}` : ""].filter(Boolean).join("; ") || null };
    if (c.kind === "range") {
      const shown = own.next && own.next[0] === c.name ? String(own.next[1]) : c.text;
      return h("label", { class: "rt-control", "data-keep": "for:" + c.name }, label, h("span", { class: "number", "aria-hidden": "true" }, shown, c.unit ? h("small", { class: "soft" }, " " + c.unit) : null),
        h("input", { type: "range", min: String(c.low), max: String(c.high), step: String(c.step), value: String(c.value), "aria-label": c.label, "aria-valuetext": `${c.text} ${c.unit}`.trim(), ...about, input: (event) => turn(c.name, Number(event.target.value)), change: (event) => turn(c.name, Number(event.target.value)) }));
    }
    if (c.kind === "choice") return h("label", { class: "rt-control", "data-keep": "for:" + c.name }, label, h("select", { ...about, change: (event) => send("set", { name: c.name, value: event.target.value }) }, c.choices.map((name) => h("option", { value: name, selected: name === c.text }, name || "none"))));
    if (c.kind === "check") return h("label", { class: "rt-control check", "data-keep": "for:" + c.name }, label, h("input", { type: "checkbox", checked: c.value, ...about, change: (event) => send("set", { name: c.name, value: event.target.checked }) }));
    const input = h("input", { value: c.text, spellcheck: "false", ...about, placeholder: c.kind === "filter" ? "{field: value}" : "", change: (event) => send("set", { name: c.name, value: event.target.value }) });
    const fields = c.kind === "filter" && body.fields.length ? h("select", { "aria-label": "Filter by a field", "data-keep": "by field", change: (event) => { const chosen = event.target.value; event.target.value = ""; if (chosen) send("set", { name: c.name, value: chosen }); } },
      h("option", { value: "" }, "by a field …"), body.fields.map((f) => h("optgroup", { label: f.name }, f.values.map((v) => h("option", { value: v.where }, `${f.name} = ${v.text}`))))) : null;
    return h("div", { class: "rt-control wide", "data-keep": "for:" + c.name }, h("label", {}, label, input), c.kind === "filter" ? fields || h("small", { class: "soft" }, "These documents have no fields to filter by.") : null);
  }

  // What was found, and the baseline beside it.
  const read = (rows, row) => { const parts = rows.map(row), cut = rows.findIndex((r) => !r.read); if (cut > 0) parts.splice(cut, 0, h("li", { class: "rt-cut", "data-keep": "cut", role: "separator" }, h("small", {}, "not read by the model from here on"))); return parts; };
  const place = (r) => h("span", { class: "rt-where" }, h("bdi", {}, r.document), r.heading ? [" › ", h("bdi", {}, r.heading)] : null, r.page ? h("small", { class: "soft" }, " " + r.page) : null);
  const mark = (r) => (r.kind ? chip(r.relevance, r.kind === "evidence" ? "good" : "", { title: r.kind === "evidence" ? "The marked words hold the answer" : "From a document that holds the answer, but not in these words" }) : null);
  const kinds = { new: "good", "=": "same" };
  const ranking = h("section", { class: "rt-now", "aria-label": "Ranking of these settings" },
    h("div", { class: "rt-line" }, h("h4", { class: "grow" }, "These settings ", h("small", { class: "soft" }, now.title)), button("Pin as baseline", () => send("pin"), { hint: "p", "data-keep": "pin", disabled: base.same })),
    body.need ? h("div", { class: "rt-need", role: "status" }, h("span", { class: "grow" }, body.need), body.can_compute ? button("Compute", () => send("compute"), { class: "main", "data-keep": "compute" }) : null) : null,
    now.summary ? h("p", { class: "soft rt-summary" }, h("small", {}, now.summary)) : null,
    now.rows.length ? h("ol", { class: "rt-list" }, read(now.rows, (r) => h("li", { class: "rt-row " + r.kind, "data-keep": "row:" + r.id },
      h("div", { class: "rt-head" }, h("b", { class: "rt-number" }, r.place), r.move ? h("span", { class: "rt-move " + (kinds[r.move] || (r.move[0] === "↑" ? "good" : "bad")), "aria-label": r.move === "=" ? "same place as in the baseline" : r.move === "new" ? "not in the baseline" : `${r.move[0] === "↑" ? "up" : "down"} ${r.move.slice(1)}` }, r.move) : null, place(r), mark(r)),
      h("div", { class: "rt-scores" }, r.scores.map((s) => h("span", { class: "rt-score", title: `${s.stage}: ${s.text}` }, h("small", {}, s.stage), h("i", { "aria-hidden": "true" }, h("i", { style: `width: ${Number(s.width)}%` })), h("small", { class: "number" }, s.text)))),
      h("details", { "data-keep": "text:" + r.id, open: r.kind === "evidence" || null }, h("summary", {}, h("span", { class: "rt-begins" }, begins(r))), h("div", { class: "words rt-text", tabindex: "0" }, r.text.map(([kind, text]) => (kind === "hit" ? h("mark", {}, text) : text)), r.more ? h("small", { class: "soft" }, ` … ${r.more}`) : null)))))
      : body.need ? null : h("p", { class: "soft" }, now.says || "Nothing was found: no passage fits the question and the filter."));
  const other = h("section", { class: "rt-base", "aria-label": "Ranking of the baseline" },
    h("div", { class: "rt-line" }, h("h4", { class: "grow" }, "Baseline ", h("small", { class: "soft" }, base.title)), base.own ? button("Unpin", () => send("pin", { what: "app" }), { "data-keep": "unpin", title: "Compare with the app as it is" }) : null),
    base.rows.length ? h("ol", { class: "rt-list" }, read(base.rows, (r) => h("li", { class: "rt-row " + r.kind + (r.gone ? " gone" : ""), "data-keep": "base:" + r.id },
      h("div", { class: "rt-head" }, h("b", { class: "rt-number" }, r.place), r.went ? h("span", { class: "rt-move " + (r.gone ? "bad" : "same") }, r.went) : null, place(r), mark(r))))) : h("p", { class: "soft" }, base.says ? `The baseline ${base.says}.`.replace("The baseline Type", "Type").replace("..", ".") : query.text ? "It finds nothing." : ""));

  // The marked words decide what is shown of a folded passage.
  function begins(r) {
    const hit = r.text.findIndex(([kind]) => kind === "hit"), flat = (text) => text.replace(/\s+/g, " ");
    if (hit < 0) return flat(r.text.map(([, text]) => text).join("")).slice(0, 160);
    const before = hit ? flat(r.text[hit - 1][1]) : "";
    return [before.length > 40 ? "…" + before.slice(-40) : before, h("mark", {}, flat(r.text[hit][1]).slice(0, 110))];
  }

  keys({ j: () => send("step", { by: 1 }), k: () => send("step", { by: -1 }), ArrowRight: () => send("step", { by: 1 }), ArrowLeft: () => send("step", { by: -1 }), p: () => { if (!base.same) send("pin"); }, r: () => { if (!body.busy) send("evaluate"); }, c: () => { if (body.can_compute) send("compute"); } });
  say(body.need || now.summary || (measured ? measured.sentence : ""));

  const parts = [
    h("header", { class: "rt-top" }, h("h3", {}, h("bdi", {}, body.app), h("small", { class: "soft" }, " retrieval tuner")), h("p", { class: "soft" }, h("small", {}, body.corpus))),
    question, h("div", { class: "rt-desk" }, settings, h("div", { class: "rt-lists" }, ranking, other)), golden(),
  ];
  if (offer) parts.push(change());
  return parts;

  function golden() {
    const list = (kind, title, tone) => h("div", { class: "rt-flips", "data-keep": "flips:" + kind }, h("h4", {}, title, h("small", { class: "soft" }, ` ${measured.counts[kind === "gained" ? 0 : 1]}`)), h("div", { class: "rt-items" },
      measured[kind].map((f) => h("button", { type: "button", class: "rt-item", "aria-pressed": String(f.here), "data-keep": `${kind}:${f.item}`, click: () => send("pick", { item: f.item }) }, h("bdi", {}, f.item), h("small", { class: tone }, `${f.before} → ${f.after}`)))));
    return h("section", { class: "rt-golden", "aria-label": "Over the golden set" },
      h("div", { class: "row" }, h("h4", {}, "Over the golden set"), h("span", { class: "soft grow" }, h("small", {}, body.golden)), button("Run over the golden set", () => send("evaluate"), { hint: "r", class: "main", "data-keep": "evaluate", disabled: body.busy }),
        body.can_write ? button("Write to app.yaml …", () => send("offer", { what: "app" }), { "data-keep": "write" }) : null),
      body.spends ? h("p", { class: "rt-looks" }, body.spends) : null,
      measured ? h("div", { class: "scroll" }, h("table", { class: "rt-figures" }, h("thead", {}, h("tr", {}, column(h("small", {}, "mean, 95 % interval")), measured.measures.map((name) => column(name, { class: "number" })))),
        h("tbody", {}, measured.rows.map((row) => h("tr", { "data-keep": "measures:" + row.name }, h("th", { scope: "row", title: row.title }, row.name), row.figures.map((f) => h("td", { class: "number" }, f.value, h("small", { class: "soft" }, f.range)))))))) : h("p", { class: "soft" }, "Run these settings and the baseline over all items to tune by, to see whether a change that looks good here is good on the whole."),
      measured && measured.sentence ? h("p", { class: "rt-verdict" }, measured.outcome ? [chip(measured.outcome, tones[measured.outcome]), " "] : null, measured.sentence, measured.corrected ? h("small", { class: "soft" }, " " + measured.corrected) : null) : null,
      measured && (measured.gained.length || measured.lost.length) ? h("div", { class: "rt-changed" }, list("gained", "Gained", "good"), list("lost", "Lost", "bad")) : null,
      body.tried.length ? h("details", { "data-keep": "tried", open: true }, h("summary", {}, `Tried so far (${body.tried.length})`), body.looks ? h("p", { class: "rt-looks" }, body.looks) : null,
        h("div", { class: "scroll" }, h("table", { class: "rt-tried" }, h("thead", {}, h("tr", {}, column("Settings"), column([body.objective, h("small", {}, " 95 % interval")], { class: "number" }), column("Against its baseline"), column(h("span", { class: "llmops-unseen" }, "Take")))),
          h("tbody", {}, body.tried.map((t) => h("tr", { class: t.here ? "here" : "", "data-keep": "tried:" + t.number }, h("th", { scope: "row" }, h("bdi", {}, t.name)), h("td", { class: "number" }, t.value, h("small", { class: "soft" }, t.range)), h("td", { title: t.sentence }, t.outcome ? chip(t.outcome, tones[t.outcome]) : null),
            h("td", {}, t.here ? h("small", { class: "soft" }, "set") : h("button", { type: "button", "aria-label": `Take the settings ${t.name}`, "data-keep": "take:" + t.number, click: () => send("restore", { number: t.number }) }, "Take")))))))) : null);
  }

  function change() {
    return h("section", { class: "rt-offer", "aria-label": offer.title }, h("div", { class: "row" }, h("b", { class: "grow" }, offer.title),
      offer.lines.length ? (offer.supported ? button("Write it", () => send("make"), { "data-keep": "make", class: "main" }) : button("Write it all the same", () => send("make", { anyway: true }), { "data-keep": "anyway" })) : null, button("Not now", () => send("offer", { what: "" }), { "data-keep": "not now" })),
      h("p", { class: offer.supported ? "good" : "bad" }, h("span", { "aria-hidden": "true" }, offer.supported ? "✓ " : "✗ "), offer.why),
      offer.lines.length ? h("div", { class: "scroll rt-lines", tabindex: "0", role: "region", "aria-label": "Lines that change" }, offer.lines.map(([kind, text]) => h("div", { class: kind }, h("span", { class: "rt-sign", "aria-label": { removed: "removed", added: "added" }[kind] || null, role: "img" }, { removed: "−", added: "+", gap: "⋯" }[kind] || " "), text))) : h("p", { class: "soft" }, "It says so already: nothing would change."));
  }
}

export default widget(draw);
