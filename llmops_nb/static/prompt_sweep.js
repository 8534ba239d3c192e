// PromptSweep: the wording and the values to try on top, what it will cost, then the grid that fills in, answers side by side, the winner.
function draw(view, tools) {
  const { button, send, say, keys, at: keep, own: timers, signal } = tools;
  const body = view.body || {};
  if (!body.prompt) return [];
  const { prompt, sweep, answers, forecast } = body;
  const chip = (text, tone, more = {}) => h("span", { ...more, class: "chip " + (tone || "") }, text);
  const column = (text, attributes = {}) => h("th", { scope: "col", ...attributes }, text);
  const tones = { better: "good", worse: "bad", "not enough evidence": "unsure", finished: "good", failed: "bad", dropped: "unsure", stopped: "unsure", interrupted: "unsure", right: "good", wrong: "bad" };
  const pieces = (list) => list.map(([kind, text]) => { // The blank before a changed word is not what changed
    const blank = kind === "same" || !text.trim() ? "" : text.slice(0, text.length - text.trimStart().length);
    return kind === "same" ? text : [blank, h(kind === "removed" ? "del" : "ins", {}, text.slice(blank.length))];
  });
  const field = (label, input, more = "") => h("label", { class: "ps-field " + more }, h("span", { class: "soft" }, label), input);
  const later = (name, work, wait) => { clearTimeout(timers[name]); timers[name] = setTimeout(() => { delete timers[name]; if (!signal.aborted) work(); }, wait); };

  // The editor. Typing is sent half a second after the last key; Python says whether it is a prompt.
  const editor = h("section", { class: "ps-editor", "aria-label": "Prompt" },
    h("div", { class: "row" }, h("h4", {}, "Prompt"), h("label", { class: "grow" }, h("span", { class: "llmops-unseen" }, "Prompt file"), h("select", { "data-keep": "file", change: (event) => send("show_prompt", { file: event.target.value }) }, prompt.files.map((name) => h("option", { value: name, selected: name === prompt.file }, name)))),
      prompt.changed ? chip("draft", "unsure", { title: "Kept in the widget's state; the file is as it was" }) : null),
    h("textarea", { rows: "13", spellcheck: "false", class: "ps-text", "aria-label": `Text of ${prompt.file}`, "aria-invalid": String(!prompt.ok), value: prompt.text, "data-keep": "text:" + prompt.file,
      input: (event) => { const text = event.target.value; later("edit", () => send("edit", { file: prompt.file, text }), 450); } }),
    h("p", { class: "ps-says " + (prompt.ok ? "ok" : "not"), role: "status" }, h("span", { "aria-hidden": "true" }, prompt.ok ? "✓ " : "✗ "), prompt.says),
    prompt.changed ? h("details", { "data-keep": "changes" }, h("summary", {}, "What you changed"), h("div", { class: "words ps-code" }, pieces(prompt.changes))) : null,
    prompt.changed ? h("div", { class: "row" }, field("New file", h("input", { value: prompt.free, "data-keep": "free", spellcheck: "false", size: "16" }), "inline"),
      button("Save and try it", () => { clearTimeout(timers.edit); const text = keep("text:" + prompt.file).value, name = keep("free").value; if (timers.edit !== undefined && text !== prompt.text) { delete timers.edit; send("edit", { file: prompt.file, text }); } send("keep", { name }); }, { "data-keep": "keep", disabled: !prompt.ok, class: "main" }),
      button("Take back", () => { clearTimeout(timers.edit); delete timers.edit; send("edit", { file: prompt.file, text: prompt.changes.filter(([kind]) => kind !== "added").map(([, text]) => text).join("") }); }, { "data-keep": "back" })) : null);

  // What varies.
  const add = (name) => { const input = keep("value:" + name); if (input && input.value.trim()) { const text = input.value; input.value = ""; send("add", { name, text }); } };
  const pick = (event, work) => { const chosen = event.target.value; event.target.value = ""; if (chosen) work(chosen); }; // A list that is a menu: it goes back to its first line
  const varied = h("section", { class: "ps-vary", "aria-label": "What varies" }, h("h4", {}, "What varies"),
    body.vary.map((row) => h("div", { class: "ps-axis", role: "group", "aria-label": row.name }, h("code", {}, row.name),
      h("div", { class: "ps-values" }, row.values.map((value, place) => h("span", { class: "ps-value" }, h("bdi", {}, value), h("button", { type: "button", "aria-label": `Do not try ${row.name} ${value}`, title: "Do not try this", "data-keep": `drop:${row.name}:${place}`, click: () => send("drop", { name: row.name, place }) }, "×"))),
        row.name === "prompt"
          ? h("select", { "aria-label": "Add a prompt", "data-keep": "add:prompt", change: (event) => pick(event, (text) => send("add", { name: "prompt", text })) }, h("option", { value: "" }, "+ prompt"), prompt.files.filter((name) => !row.values.includes(name)).map((name) => h("option", { value: name }, name)))
          : h("input", { "aria-label": `Add a value of ${row.name}`, placeholder: `+ ${row.kind}`, size: "8", "data-keep": "value:" + row.name, keydown: (event) => { if (event.key === "Enter") add(row.name); }, change: () => add(row.name) })))),
    h("select", { class: "ps-more", "aria-label": "Vary another parameter", "data-keep": "more", change: (event) => pick(event, (name) => send("add", { name, text: "" })) }, h("option", { value: "" }, "Vary another parameter …"), body.names.map((row) => h("option", { value: row.name }, `${row.name} (${row.kind})`))));

  // Which items, how often, for how much.
  const number = (name, fallback) => { const text = keep(name).value.trim(); return text === "" ? fallback : Number(text); };
  const choose = () => send("choose", { slice: keep("slice") ? keep("slice").value : "", limit: Math.round(number("limit", 0)) || 0, repeats: Math.round(number("repeats", 1)) || 1, racing: keep("racing").checked });
  const afford = () => send("afford", { money: number("money", null), calls: number("calls", null), seconds: number("seconds", null) });
  const small = (name, label, value, change, placeholder) => field(label, h("input", { type: "number", min: "0", step: "any", value, placeholder, "data-keep": name, change }), "small");
  const choice = h("section", { class: "ps-choice", "aria-label": "Items and budget" }, h("h4", {}, "Items and budget"), h("p", { class: "soft" }, body.golden),
    h("div", { class: "row" }, body.slices.length ? field("Slice", h("select", { "data-keep": "slice", change: choose }, h("option", { value: "" }, "all"), body.slices.map((name) => h("option", { value: name, selected: name === body.slice }, name)))) : null,
      small("limit", "Items at most", body.limit || "", choose, "all"), small("repeats", "Repeats", body.repeats, choose, "1"),
      h("label", { class: "ps-check" }, h("input", { type: "checkbox", checked: body.racing, "data-keep": "racing", change: choose }), "drop weak cells early")),
    h("div", { class: "row" }, small("money", "US dollars", body.money, afford, "no limit"), small("calls", "Calls", body.calls, afford, "no limit"), small("seconds", "Seconds", body.seconds, afford, "no limit")));

  // The forecast, and what may be done.
  const row = (name, total) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, total.calls), h("td", { class: "number" }, total.to_pay), h("td", {}, total.cached), h("td", {}, total.cost), h("td", {}, total.seconds));
  const plan = h("section", { class: "ps-plan", "aria-label": "Forecast" },
    h("div", { class: "row" }, h("p", { class: "grow" + (body.ready ? "" : " soft") }, body.size),
      button("Forecast", () => send("foresee"), { "data-keep": "foresee", disabled: body.busy || !body.ready, class: forecast ? "" : "main" }),
      button("Run", () => send("run"), { "data-keep": "run", disabled: !body.can_run, class: "main", title: body.can_run ? "" : "Forecast this plan first" }),
      button("Save plan …", () => send("offer", { what: "plan" }), { "data-keep": "plan", disabled: !body.ready })),
    body.refused ? h("p", { class: "ps-refused", role: "alert" }, body.refused) : null,
    forecast ? h("div", { class: "ps-forecast" },
      h("dl", {}, [["to pay", `${forecast.total.to_pay} of ${forecast.total.calls} calls`], ["cache", forecast.total.cached], ["cost", forecast.total.cost], ["time", forecast.total.seconds]].map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))),
      h("details", { "data-keep": "by cell" }, h("summary", {}, "By cell"), h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, column("Cell"), column("Calls", { class: "number" }), column("To pay", { class: "number" }), column("Cache"), column("Cost"), column("Model time"))), h("tbody", {}, forecast.rows.map((r) => row(r.label, r)))))),
      h("p", { class: "soft" }, h("small", {}, [`Tokens: ${forecast.total.tokens}.`, forecast.method, ...forecast.notes].join(" ")))) : null);

  const offer = body.offer ? h("section", { class: "ps-offer", "aria-label": body.offer.title }, h("div", { class: "row" }, h("b", { class: "grow" }, body.offer.title, body.offer.new ? chip("new file") : null),
    body.offer.lines.length ? button("Write it", () => send("make"), { "data-keep": "make", class: "main" }) : null, button("Not now", () => send("offer", { what: "" }), { "data-keep": "not now" })),
    body.offer.lines.length ? h("div", { class: "scroll ps-lines", tabindex: "0", role: "region", "aria-label": "Lines that change" }, body.offer.lines.map(([kind, text]) => h("div", { class: kind }, h("span", { class: "ps-sign", "aria-label": { removed: "removed", added: "added" }[kind] || null, role: "img" }, { removed: "−", added: "+", gap: "⋯" }[kind] || " "), text))) : h("p", { class: "soft" }, "It says so already: nothing would change."), body.offer.hint ? h("p", { class: "soft" }, body.offer.hint) : null) : null;

  const map = {};
  if (sweep && sweep.items.length) Object.assign(map, { j: () => send("step", { by: 1 }), k: () => send("step", { by: -1 }), ArrowRight: () => send("step", { by: 1 }), ArrowLeft: () => send("step", { by: -1 }), ArrowDown: () => move(1), ArrowUp: () => move(-1), p: () => answers && send("pin", { cell: answers.arms[answers.arms.length - 1].id }), Escape: () => send("look", { item: "" }) });
  keys(map);
  say(body.busy && sweep ? sweep.spoken : answers ? `${answers.item}, ${answers.place}` : sweep ? sweep.verdict : "");

  const parts = [h("header", { class: "ps-head" }, h("h3", {}, h("bdi", {}, body.app), h("small", { class: "soft" }, " prompt sweep"))), h("div", { class: "ps-top" }, editor, h("div", { class: "ps-side" }, varied, choice)), plan];
  if (sweep) parts.push(grid());
  if (answers) parts.push(compared());
  if (offer) parts.push(offer);
  return parts;

  // The first cell that is compared stays; up and down change the other one.
  function move(by) {
    const ids = sweep.rows.map((r) => r.id), shown = answers ? answers.arms.map((arm) => arm.id) : [];
    const first = shown[0] || ids[0], at = ids.indexOf(shown[shown.length - 1] || first);
    send("look", { item: answers ? answers.item : sweep.items[0], cells: [first, ids[Math.max(0, Math.min(ids.length - 1, at + by))]] });
  }

  // Squares, one an item, in lines; a click opens the item with this cell beside the one that others are compared with.
  function squares(r) {
    const count = Math.max(1, sweep.items.length), pitch = count > 120 ? 6 : count > 24 ? 9 : 11, across = Math.min(count, count > 120 ? 50 : count > 24 ? 30 : 24);
    const size = pitch - (pitch > 6 ? 2 : 1), lines = Math.ceil(count / across);
    const paths = {};
    [...r.marks].forEach((mark, n) => { paths[mark] = (paths[mark] || "") + `M${(n % across) * pitch} ${Math.floor(n / across) * pitch}h${size}v${size}h${-size}z`; });
    const at = answers ? sweep.items.indexOf(answers.item) : -1;
    const others = answers ? answers.arms.map((arm) => arm.id) : [];
    const look = (event) => {
      const place = event.currentTarget.getBoundingClientRect(), first = others[0] || sweep.rows[0].id;
      const item = sweep.items[Math.floor((event.clientY - place.top) / pitch) * across + Math.floor((event.clientX - place.left) / pitch)];
      if (item) send("look", { item, cells: r.id !== first ? [first, r.id] : others.length ? others : sweep.rows.slice(0, 2).map((row) => row.id) });
    };
    return svg("svg", { width: across * pitch, height: lines * pitch, viewBox: `0 0 ${across * pitch} ${lines * pitch}`, role: "img", class: "ps-squares", "aria-label": r.words, click: look },
      Object.entries(paths).map(([mark, path]) => svg("path", { d: path, class: "m-" + ({ ".": "none" }[mark] || mark) })),
      at >= 0 ? svg("rect", { x: (at % across) * pitch - 1, y: Math.floor(at / across) * pitch - 1, width: size + 2, height: size + 2, class: "here" }) : null);
  }

  function grid() {
    const pinned = sweep.rows.find((r) => r.id === body.winner);
    return h("section", { class: "ps-grid", "aria-label": "Sweep" },
      body.busy ? null : h("div", { class: "row" }, h("h4", {}, "Sweep"), chip(sweep.status, tones[sweep.status]), h("span", { class: "soft grow" }, sweep.going), sweep.resumable ? button("Go on", () => send("go_on"), { "data-keep": "go on", class: "main", disabled: body.busy }) : null),
      sweep.note || sweep.took ? h("p", { class: "soft" }, [sweep.note, sweep.took].filter(Boolean).join(" ")) : null,
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, column("Cell"), column(`Items (${sweep.items.length})`), column([body.objective, h("small", {}, " 95 % interval")], { class: "number ps-score" }), column("Spent", { class: "number" }), column("Verdict"), column(h("span", { class: "llmops-unseen" }, "Pin")))),
        h("tbody", {}, sweep.rows.map((r) => h("tr", { class: r.id === body.winner ? "pinned" : "", "data-keep": "cell:" + r.id },
          h("th", { scope: "row" }, h("bdi", {}, r.label), r.baseline ? h("small", { class: "soft" }, " as it is") : null), h("td", { class: "ps-cell" }, squares(r), h("small", { class: "soft" }, [r.status === "finished" ? "" : r.status, r.count, r.cached].filter(Boolean).join(" · "))),
          h("td", { class: "number ps-score" }, r.score, r.range ? h("small", { class: "soft" }, r.range) : null), h("td", { class: "number" }, r.spent), h("td", { title: r.sentence || r.note }, r.outcome ? (r.baseline ? h("small", { class: "soft" }, "compared with") : chip(r.outcome, tones[r.outcome])) : null),
          h("td", {}, h("button", { type: "button", class: "ps-pin", "aria-pressed": String(r.id === body.winner), "aria-label": `Pin ${r.label} as the winner`, "data-keep": "pin:" + r.id, click: () => send("pin", { cell: r.id === body.winner ? "" : r.id }) }, r.id === body.winner ? "★" : "☆"))))))),
      h("p", { class: "ps-legend soft" }, [["r", "right"], ["w", "wrong"], ["m", "repeats disagree"], ["e", "no answer"], ["none", "to come"]].map(([mark, text]) => h("span", {}, h("i", { class: "m-" + mark, "aria-hidden": "true" }), text)), sweep.more ? h("span", {}, sweep.more) : null),
      sweep.verdict ? h("p", { class: "ps-verdict" }, sweep.verdict) : null,
      sweep.rows.some((r) => r.sentence) ? h("details", { "data-keep": "verdicts" }, h("summary", {}, "Every verdict"), h("ul", { class: "ps-list" }, sweep.rows.filter((r) => r.sentence).map((r) => h("li", {}, chip(r.outcome, tones[r.outcome]), " ", r.sentence)))) : null,
      sweep.report ? h("p", { class: "soft" }, "Report: ", h("code", {}, sweep.report)) : null,
      pinned ? h("div", { class: "row ps-pinned" }, h("span", { class: "grow" }, "★ ", h("b", {}, pinned.label), " is pinned."), button("Label its prompt as candidate …", () => send("offer", { what: "label" }), { "data-keep": "label" }), pinned.baseline ? null : button("Bring it into app.yaml …", () => send("offer", { what: "app" }), { "data-keep": "app" })) : null);
  }

  function compared() {
    const ids = answers.arms.map((arm) => arm.id);
    const toggle = (id) => send("look", { item: answers.item, cells: ids.includes(id) ? ids.filter((other) => other !== id) : [...ids, id] });
    return h("section", { class: "ps-compared", "aria-label": "Answers to " + answers.item },
      h("div", { class: "row" }, h("b", {}, h("code", {}, answers.item)), h("span", { class: "soft grow" }, answers.place), button("Back", map.k, { hint: "k", "data-keep": "item back" }), button("Next", map.j, { hint: "j", "data-keep": "item forth" })),
      h("p", { class: "words ps-asked" }, answers.question), answers.expected ? h("p", { class: "words" }, h("small", { class: "soft" }, "Expected: "), answers.expected) : null,
      h("div", { class: "ps-kinds", role: "group", "aria-label": "Cells to compare" }, sweep.rows.map((r) => h("button", { type: "button", class: "ps-kind", "aria-pressed": String(ids.includes(r.id)), "data-keep": "with:" + r.id, disabled: ids.includes(r.id) && ids.length === 1, click: () => toggle(r.id) }, r.label))),
      h("div", { class: "ps-arms" }, answers.arms.map((arm, place) => h("section", { class: "ps-arm", "data-keep": `arm:${arm.id} ${answers.item}`, "aria-label": arm.label }, h("div", { class: "row" }, h("b", { class: "grow" }, arm.label), arm.mark ? chip(arm.mark, tones[arm.mark]) : null),
        h("div", { class: "words" }, arm.pieces.length ? pieces(arm.pieces) : h("span", { class: "soft" }, arm.took.startsWith("no") ? arm.took : "(an empty answer)")), h("p", { class: "soft" }, h("small", {}, arm.why)), h("p", { class: "soft" }, h("small", {}, arm.took))))));
  }
}

export default widget(draw);
