// Where an answer comes from: its sentences with the passages they stand on, and what leaving a passage out did. What
// stands on what was decided in Python; this only shows it.
"use strict";
const Sources = (() => {
  const { byId, h, label, list, say } = Report;
  const TONES = { supported: "good", "not supported": "poor", "no such passage": "poor", uncited: "unsure" };
  const WORDS = { supported: "citation holds", "not supported": "citation does not hold", "no such passage": "cites no passage there is", uncited: "cites nothing" };

  const show = (number) => () => byId("passage-" + (number - 1))?.scrollIntoView({ block: "start" });
  const link = (number, words) => h("button", { type: "button", class: "cite", title: `Show passage ${number}`, click: show(number) }, words);

  // The parts of a passage that the answer uses: [start, end, …] of every sentence that stands on it.
  function saidIn(row, place) {
    const ranges = list(row.sources?.sentences).filter(([, , passage]) => passage === place + 1).flatMap(([, , , , , words]) => words.map((at, n) => n % 2 ? null : [at, words[n + 1]]).filter(Boolean));
    const joined = [];
    for (const [start, end] of ranges.sort((a, b) => a[0] - b[0])) {
      if (joined.length && start <= joined.at(-1)[1]) joined.at(-1)[1] = Math.max(joined.at(-1)[1], end);
      else joined.push([start, end]);
    }
    return joined;
  }

  // A text with marks (evidence) and, inside and outside of them, the words that the answer uses.
  function layered(text, marks, said) {
    const pieces = (from, to) => {
      const found = [];
      let at = from;
      for (const [start, end] of said) {
        const a = Math.max(start, at), b = Math.min(end, to);
        if (a >= b) continue;
        found.push(text.slice(at, a), h("span", { class: "said" }, text.slice(a, b)));
        at = b;
      }
      return [...found, text.slice(at, to)];
    };
    const found = [];
    let at = 0;
    for (const [start, end] of marks.sort((a, b) => a[0] - b[0])) {
      if (start < at) continue;
      found.push(pieces(at, start), h("mark", {}, pieces(start, end)));
      at = end;
    }
    return [...found, pieces(at, text.length)];
  }

  function sentences(row) {
    const text = say(row.record.answer.text);
    return h("ul", { class: "sourced" }, list(row.sources.sentences).map(([start, end, passage, share, verdict]) => h("li", {}, h("span", { class: "words-of" }, text.slice(start, end)), h("span", { class: "where" },
      passage ? link(passage, `passage ${passage}`) : h("span", { class: "chip unsure" }, "no passage"), h("small", {}, passage ? `${Math.round(100 * share)} % of its words` : `at most ${Math.round(100 * share)} % of its words in any`),
      verdict && h("span", { class: "chip " + TONES[verdict] }, WORDS[verdict])))));
  }

  function influence(found) {
    const head = ["Without", ...found.heads.map(label), "the answer is"];
    return [h("div", { class: "scroll" }, h("table", { class: "influence" }, h("thead", {}, h("tr", {}, head.map((words, n) => h("th", { scope: "col", class: n && n < head.length - 1 ? "number" : null }, words)))),
      h("tbody", {}, found.rows.map((cells) => h("tr", {}, cells.map((cell, n) => n === 0 ? h("th", { scope: "row" }, link(cell, `passage ${cell}`), cell === found.most && h("span", { class: "chip even" }, "most")) : h("td", { class: n < cells.length - 1 ? "number" : null }, say(cell)))))))),
    h("p", { class: "soft" }, h("small", {}, [found.noise, "Passages that say the same cover for each other here."].filter(Boolean).join(" ")))];
  }

  return { influence, layered, saidIn, sentences };
})();
