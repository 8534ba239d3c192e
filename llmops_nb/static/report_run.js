// The items of a run, in its report: which columns, which order, and what the panel of one item shows.
"use strict";
(() => {
  const { byId, count, h, label, list, pairs, say, section, short, whole, workbench } = Report;
  const TONES = { error: "poor", wrong: "poor", abstained: "unsure", unscored: "", declined: "good", right: "good" };
  let data = { rows: [], metrics: [], columns: [], outcomes: [], headline: "" };

  const outcomeWords = (key) => data.outcomes.find(([known]) => known === key)?.[1] || key;
  const outcomeOf = (row) => h("span", { class: "chip " + TONES[row.outcome] }, outcomeWords(row.outcome));
  const usageOf = (row) => (row.record.answer && row.record.answer.usage) || {};
  const answerText = (row) => (row.record.answer ? say(row.record.answer.text) : row.record.error ? row.record.error.message : "");
  const shown = (row, name) => (row.values[name] === null ? "failed" : name in row.values ? row.shown[name] : "—");
  const metricOf = (name) => data.metrics.find((metric) => metric.name === name);

  function open(found) {
    data = found;
    for (const row of data.rows) {
      const item = row.record.item;
      row.id = item.id;
      row.text = [item.id, item.question, item.expected, answerText(row), ...list(item.slices)].join("\n").toLowerCase();
    }
    return data.rows;
  }

  // ── Filter and sort ────────────────────────────────────────────────────────────────────────────────────────────
  function passes(row, state) {
    const item = row.record.item;
    const score = metricOf(state.metric)?.score;
    return (
      (!state.slice || list(item.slices).includes(state.slice) || item.split === state.slice) &&
      (!state.split || item.split === state.split) &&
      (!state.outcome || row.outcome === state.outcome || (state.outcome === "scorer" && Object.values(row.values).includes(null))) &&
      (!score || score in row.values || row.outcome === "error")
    );
  }

  // How bad a row is, for "worst first": larger is worse, no value at all is worst.
  function badness(row, metric) {
    if (!metric) return -data.outcomes.findIndex(([key]) => key === row.outcome);
    const value = row.values[metric.score];
    if (value === undefined || value === null) return Infinity;
    return metric.better === "lower" ? value : -value;
  }

  function order(one, other, state) {
    const metric = metricOf(state.metric);
    const difference = badness(other, metric) - badness(one, metric);
    return difference || badness(other) - badness(one) || 0; // Infinity - Infinity is NaN: equally bad
  }

  // ── Columns ────────────────────────────────────────────────────────────────────────────────────────────────────
  const words = (row, text, alert) => h("td", { class: "wordy" }, h("span", { class: alert ? "words alert" : "words" }, say(text)));
  const number = (label, text, below) => h("td", { class: "number" + (below ? " below" : ""), "data-label": label }, say(text));
  const COLUMNS = {
    outcome: { label: "Outcome", width: 126, value: (row) => -badness(row), cell: (row) => h("td", {}, outcomeOf(row)) },
    id: { label: "Item", width: 116, value: (row) => row.id },
    question: { label: "Question", value: (row) => say(row.record.item.question), cell: (row) => words(row, row.record.item.question) },
    answer: { label: "Answer", value: (row) => answerText(row), cell: (row) => words(row, answerText(row), row.outcome === "error") },
    cost: { label: "Cost", number: true, width: 84, value: (row) => usageOf(row).cost, cell: (row) => number("Cost", row.texts.cost) },
    latency: { label: "Latency", number: true, width: 80, value: (row) => usageOf(row).latency, cell: (row) => number("Latency", row.texts.latency) },
  };
  const scoreColumn = (name) => ({ label: label(name), number: true, width: 106, value: (row) => row.values[name], cell: (row) => number(label(name), shown(row, name), row.values[name] < 0.5) });
  const column = (key) => (Object.hasOwn(COLUMNS, key) ? COLUMNS[key] : scoreColumn(key));

  function columns(state) {
    const metric = metricOf(state.metric);
    const scores = metric && !["s", "USD"].includes(metric.unit) ? [metric.score, ...data.columns.filter((name) => name !== metric.score)] : data.columns;
    return ["outcome", "id", "question", "answer", ...scores.slice(0, 3), "cost", "latency"];
  }

  function found(state, shown) {
    const order = state.sort ? "" : state.metric ? `, worst ${label(state.metric)} first` : ", worst first";
    const behind = state.metric || state.slice ? ` behind ${[state.metric && label(state.metric), state.slice && `slice ${state.slice}`].filter(Boolean).join(", ")}` : "";
    return `${shown} items${behind}${order}`;
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
  // Which passages hold which evidence: the one question that tells retrieval's fault from the model's.
  function evidenceIn(item, passages) {
    return list(item.evidence).filter(({ grade }) => !(grade <= 0)).map((evidence) => {
      if (!String(evidence.quote || "").trim()) { // The whole document: any of its passages is a part of it
        const places = passages.flatMap(({ chunk }, place) => (chunk.document === evidence.document ? [{ place, share: 1, ranges: [] }] : []));
        return { ...evidence, quote: "the whole document", places, held: places.length > 0 };
      }
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

  function passageBox(row, passage, place, evidence, cited) {
    const chunk = passage.chunk;
    const found = evidence.flatMap((each) => each.places.filter((one) => one.place === place));
    const held = found.some((one) => one.share >= ENOUGH);
    const stages = Object.entries(passage.scores || {});
    return h("article", { class: "passage" + (held ? " held" : ""), id: "passage-" + place },
      h("header", {}, h("strong", {}, `${place + 1} · ${say(chunk.id)}`), held ? h("span", { class: "chip good" }, "holds evidence") : found.length ? h("span", { class: "chip unsure" }, "part of the evidence") : null,
        cited.includes(chunk.id) && h("span", { class: "chip" }, "cited"), h("span", { class: "soft" }, [chunk.heading, `${say(chunk.document)}, characters ${say(chunk.start)}–${say(chunk.end)}`].filter(Boolean).join(" · "))),
      h("p", {}, Sources.layered(say(chunk.text), found.flatMap((one) => one.ranges), Sources.saidIn(row, place))),
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
    const json = h("pre", { class: "text mono" });
    return [
      h("p", { class: "lead" }, say(item.question)),
      h("p", { class: "tags" }, [...list(item.slices), item.split && `split ${item.split}`, item.answerable === false && "not answerable from the corpus", item.origin && `from ${item.origin}`].filter(Boolean).map((tag) => h("span", { class: "chip" }, tag))),
      item.note && h("p", { class: "soft" }, item.note),
      trail(row, evidence),
      h("div", { class: "pair" }, h("div", {}, section("Expected", h("p", { class: "text" }, say(item.expected)))), h("div", {}, section("Answer", answerBox(row)))),
      list(item.facts).length ? section("Facts it must state, each in any of these wordings (marked in the answer)", h("ul", { class: "plain" }, item.facts.map((fact) => h("li", {}, list(fact).join(" / "))))) : null,
      section("Scores", scoresTable(row)),
      list(answer && answer.findings).length ? section("What guards saw", h("ul", { class: "plain" }, answer.findings.map((finding) => h("li", {}, `${say(finding.guard)}: ${say(finding.kind)}. ${finding.why || ""}${finding.blocks ? " Blocked." : ""}`)))) : null,
      evidence.length ? section("Evidence", h("ul", { class: "plain" }, evidence.map((each) => h("li", {}, h("q", {}, say(each.quote)), h("small", {}, ` ${say(each.document)} · ${each.held ? "in " + named(each.places) : each.places.length ? "only a part is in " + named(each.places) : "in no passage"}`))))) : null,
      list(row.sources?.sentences).length ? section("Where each sentence comes from, by its words (underlined in the passages)", row.sources.citing && h("p", { class: "soft" }, row.sources.citing), Sources.sentences(row)) : null,
      row.sources?.influence ? section("What it answers without a passage", Sources.influence(row.sources.influence)) : null,
      answer && section(`Passages (${passages.length})`, passages.length ? passages.map((passage, index) => passageBox(row, passage, index, evidence, cited)) : h("p", { class: "soft" }, "Nothing was retrieved.")),
      answer && section("Prompt as it was sent", list(answer.messages).length ? answer.messages.map(messageBox) : h("p", { class: "soft" }, "Not recorded.")),
      section("What it took", usagePairs(row)),
      h("details", { class: "fold", toggle: () => (json.textContent = JSON.stringify(row.record, null, 2)) }, h("summary", {}, "The whole record as JSON"), json),
    ];
  }

  workbench({ controls: ["outcome", "slice", "split", "metric"], moving: ["metric", "slice"], nothing: "No item is done yet.", open, passes, order, columns, column, found, title: outcomeOf, panel });
})();
