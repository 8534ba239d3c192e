// The items of a comparison, in its report: which flipped, and the panel of one item with both sides.
"use strict";
(() => {
  const { count, h, label, list, pairs, say, section, workbench } = Report;
  const TONES = { broken: "poor", fixed: "good", changed: "even", missing: "unsure", "same wrong": "", "same right": "" };
  const FLIPPED = ["broken", "fixed"];
  const SIDES = ["Before", "After"];
  let data = { rows: [], kinds: [], labels: ["before", "after"], metric: "", links: ["", ""] };

  const kindOf = (row) => h("span", { class: "chip " + (TONES[row.kind] || "") }, data.kinds.find(([key]) => key === row.kind)?.[1] || row.kind);
  // A difference arrives as pieces: [0, text in common], [1, removed], [2, added]. One side is what it has of them.
  const textOf = (pieces, side) => pieces.filter(([kind]) => kind === 0 || kind === side + 1).map(([, text]) => text).join("");
  // Two texts without a piece in common are not marked: all of it would be.
  const apart = (pieces) => pieces.length === 2 && pieces.every(([kind]) => kind !== 0);
  const marked = (pieces, side) => pieces.filter(([kind]) => kind === 0 || kind === side + 1).map(([kind, text]) => (kind === 0 || apart(pieces) ? text : h(side ? "ins" : "del", {}, text)));
  const answerOf = (row, side) => row.sides[side].error || textOf(row.answer, side);

  function open(found) {
    data = found;
    data.rows.forEach((row, place) => {
      row.place = place; // Python has put them in order
      row.text = [row.id, row.item.question, row.item.expected, answerOf(row, 0), answerOf(row, 1), ...row.slices].join("\n").toLowerCase();
    });
    return data.rows;
  }

  function passes(row, state) {
    return (!state.slice || row.slices.includes(state.slice)) && (!state.kind || row.kind === state.kind || (state.kind === "flipped" && FLIPPED.includes(row.kind)));
  }

  // ── Columns ────────────────────────────────────────────────────────────────────────────────────────────────────
  const wordy = (name, text, alert) => h("td", { class: "wordy", "data-label": name }, h("span", { class: alert ? "words alert" : "words" }, say(text)));
  const answerColumn = (side) => ({ label: data.labels[side], value: (row) => answerOf(row, side), cell: (row) => wordy(data.labels[side], answerOf(row, side), row.sides[side].error) });
  const column = (key) => ({
    kind: { label: "What became of it", width: 134, value: (row) => row.place, cell: (row) => h("td", {}, kindOf(row)) },
    id: { label: "Item", width: 116, value: (row) => row.id },
    question: { label: "Question", value: (row) => say(row.item.question), cell: (row) => h("td", { class: "wordy" }, h("span", { class: "words" }, say(row.item.question))) },
    one: answerColumn(0),
    other: answerColumn(1),
    score: { label: data.metric ? label(data.metric) : "Score", number: true, width: 118, value: (row) => row.rise, cell: (row) => h("td", { class: "number", "data-label": label(data.metric) }, `${row.values[0]} → ${row.values[1]}`) },
  })[key];

  function found(state, shown) {
    const behind = state.slice ? ` of slice ${state.slice}` : "";
    return `${shown} items${behind}${state.sort ? "" : ", flipped ones first"}`;
  }

  // ── The panel ──────────────────────────────────────────────────────────────────────────────────────────────────
  const sideName = (side, ...more) => h("p", { class: "sidename" }, h("strong", {}, SIDES[side]), h("bdi", {}, data.labels[side]), more);
  const two = (make) => h("div", { class: "pair" }, [0, 1].map((side) => h("div", {}, make(side))));

  function answers(row) {
    return two((side) => {
      const { error, abstained } = row.sides[side];
      return [
        sideName(side, h("span", {}, `${label(data.metric)} ${row.values[side]}`), abstained && h("span", { class: "chip" }, "abstained")),
        error ? h("p", { class: "text alert" }, error) : h("p", { class: "text" }, marked(row.answer, side)),
        list(row.repeats?.[side]).map((each, place) => h("details", { class: "message" }, h("summary", {}, `Repeat ${place + 2} · ${each.score}`), h("p", { class: "text" }, say(each.text)))),
      ];
    });
  }

  function scores(row) {
    if (!row.scores.length) return h("p", { class: "soft" }, "No scorer was asked.");
    const cell = (score, side) => h("td", { class: side ? score.tone : "" }, score.shown[side], score.why[side] && h("small", {}, score.why[side]));
    return h("div", { class: "scroll" }, h("table", { class: "whys" },
      h("thead", {}, h("tr", {}, ["Score", ...SIDES].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, row.scores.map((score) => h("tr", {}, h("th", { scope: "row" }, label(score.name)), cell(score, 0), cell(score, 1))))));
  }

  function passage(each) {
    const both = each.before && each.after;
    const words = !both ? (each.after ? "only after" : "only before") : each.before === each.after ? `place ${each.after}` : `place ${each.before} → ${each.after}`;
    return h("details", { class: both ? "" : "only " + (each.after ? "after" : "before") },
      h("summary", {}, h("span", { class: "places" }, both ? words : `${words}, ${each.after || each.before}`), h("span", {}, h("strong", {}, say(each.id)), each.heading && h("span", { class: "soft" }, " · " + each.heading)), each.held ? h("span", { class: "chip good" }, "holds evidence") : null),
      h("p", {}, say(each.text)));
  }

  function passages(row) {
    if (!row.passages.length) return null;
    const apart = row.passages.filter((each) => !each.before || !each.after).length;
    const moved = row.passages.filter((each) => each.before && each.after && each.before !== each.after).length;
    const said = apart ? `${apart} of ${row.passages.length} on one side only` : moved ? "the same, in another order" : "the same on both sides";
    return section(`Passages: ${said}`, h("div", { class: "found-by" }, row.passages.map(passage)));
  }

  function prompts(row) {
    if (!row.prompts.length) return null;
    return section("Prompts as they were sent", row.prompts.map(([role, pieces]) => {
      const same = pieces.every(([kind]) => kind === 0);
      const size = count(textOf(pieces, 1).length || textOf(pieces, 0).length);
      return h("details", { class: "message", open: !same }, h("summary", {}, `${role} · ${size} characters · ${same ? "the same on both sides" : "differs"}`),
        same ? h("p", { class: "text mono" }, textOf(pieces, 1)) : two((side) => [sideName(side), h("p", { class: "text mono" }, marked(pieces, side))]));
    }));
  }

  function panel(row) {
    const { item } = row;
    return [
      h("p", { class: "lead" }, say(item.question)),
      h("p", { class: "tags" }, [...row.slices, item.split && `split ${item.split}`, item.answerable === false && "not answerable from the corpus", item.origin && `from ${item.origin}`].filter(Boolean).map((tag) => h("span", { class: "chip" }, tag))),
      item.note && h("p", { class: "soft" }, item.note),
      section(apart(row.answer) ? "Both answers, with hardly a word in common" : "Both answers", answers(row)),
      (item.expected || list(item.facts).length) ? section("Expected", item.expected && h("p", { class: "text" }, item.expected),
        list(item.facts).length ? h("p", { class: "hint notes" }, "Must state: " + item.facts.map((fact) => list(fact).join(" / ")).join("; ")) : null) : null,
      section("Scores", scores(row)),
      row.evidence.length ? section("Evidence", h("ul", { class: "plain" }, row.evidence.map((each) => h("li", {}, h("q", {}, say(each.quote)), h("small", {}, " " + say(each.document)))))) : null,
      passages(row),
      prompts(row),
      section("What it took", two((side) => [sideName(side, data.links[side] && h("a", { href: `${data.links[side]}#${new URLSearchParams({ item: row.id })}` }, "in the report of its run")), pairs(row.sides[side].took)])),
    ];
  }

  workbench({ controls: ["kind", "slice"], moving: ["kind", "slice"], nothing: "There is no item to compare.", open, passes, order: (a, b) => a.place - b.place, columns: () => ["kind", "id", "question", "one", "other", "score"], column, found, title: kindOf, panel });
})();
