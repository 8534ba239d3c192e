// EvalScorer: one answer, or two side by side, and a row of choices for each criterion.

// What a text is: words of anybody, shown as they are; a long one scrolls inside its own box.
const prose = (text, label, key) => h("div", { class: "words scroll", tabindex: "0", "data-keep": `${label} ${key}`, role: "group", "aria-label": label }, text || h("span", { class: "soft" }, "(empty)"));

// The passages an answer was given: which one each sentence stands on, then their texts with the words it uses underlined.
// Whose words they are is no verdict, so nothing here says whether the answer is right.
function passages(answer, key) {
  const sentences = answer.sentences.map((one) => h("li", {}, h("span", { class: "es-sentence" }, one.text), h("span", { class: "chip" }, one.where)));
  const texts = answer.passages.map((passage) => h("p", {}, h("b", {}, passage.title), "\n", passage.parts.map(([text, said]) => (said ? h("span", { class: "es-said" }, text) : text)), passage.rest ? ` … (${passage.rest} characters more)` : ""));
  return h("div", { class: "words scroll es-passages", tabindex: "0", "data-keep": `Passages of ${answer.title} ${key}`, role: "group", "aria-label": `Passages of ${answer.title}` },
    sentences.length ? h("ul", { class: "es-sentences", "aria-label": "Whose words each sentence uses" }, sentences) : null, answer.lost ? h("p", { class: "soft" }, answer.lost) : null, texts);
}

function scored(body, tools) {
  const { send } = tools;
  const turn = body.turn;
  const active = turn.criteria.find((criterion) => criterion.active) || turn.criteria[0];
  const score = (criterion, choice) => send("score", { turn: turn.turn, criterion: criterion.name, value: choice.value });
  const at = turn.criteria.indexOf(active);
  const move = (by) => () => send("choose", { criterion: (at + by + turn.criteria.length) % turn.criteria.length });
  const note = () => { const box = tools.root.querySelector("textarea"); if (box) box.focus(); };
  const skip = () => send("skip", { turn: turn.turn });
  const back = () => send("go", { to: turn.place - 1 });
  const on = () => send("go", { to: turn.place + 1 });
  const write = ({ target }) => { clearTimeout(tools.own.typing); if (target.value.trim() !== turn.note) send("note", { turn: turn.turn, text: target.value }); };
  const later = (event) => { clearTimeout(tools.own.typing); tools.own.typing = setTimeout(() => write(event), 700); };

  tools.keys(Object.fromEntries(active.choices.map((choice) => [choice.key, () => score(active, choice)])));
  tools.keys({ s: skip, n: note, ArrowLeft: back, ArrowRight: on });
  if (turn.criteria.length > 1) tools.keys({ ArrowUp: move(-1), ArrowDown: move(1) });

  const criteria = turn.criteria.map((criterion) => {
    const choices = criterion.choices.map((choice) =>
      button(choice.text, () => score(criterion, choice), {
        "aria-pressed": String(choice.chosen), "data-keep": `${criterion.name}/${choice.value}`, lead: choice.key,
      }));
    return h("div", { class: "es-criterion", role: "group", "aria-label": `${criterion.name}: ${criterion.question}`, "data-active": criterion.active ? "yes" : null },
      h("p", {}, h("b", {}, criterion.name), " ", h("span", { class: "soft" }, criterion.question)), h("div", { class: "row" }, choices));
  });

  const box = h("textarea", { rows: "1", "data-keep": `note ${turn.turn}`, "aria-label": "Note about this answer", placeholder: "Note (n to write, Esc to go back to the keys)", maxlength: "5000", value: turn.note, dir: "auto", input: later, blur: write });

  return [
    h("div", { class: "es-question" }, h("p", { class: "soft" }, `Question ${turn.count}`, turn.skipped ? " · skipped" : ""), h("h3", { class: "words", "data-keep": `question ${turn.turn}` }, turn.question)),
    h("div", { class: "es-answers", "data-pair": body.pairs ? "yes" : null }, turn.answers.map((answer) => h("article", {}, h("h4", { class: "soft" }, answer.title), prose(answer.text, answer.title, turn.turn),
      answer.passages.length ? h("details", { "data-keep": `passages ${answer.title}` }, h("summary", {}, `${answer.passages.length} passages it was given`), passages(answer, turn.turn)) : null))),
    turn.expected ? h("details", { "data-keep": "expected" }, h("summary", {}, "A good answer, from the golden set"), h("div", { class: "words es-expected", "data-keep": `expected ${turn.turn}` }, turn.expected)) : null,
    h("div", { class: "es-criteria" }, criteria),
    box,
    h("div", { class: "row es-foot" },
      button("Back", back, { hint: "←", disabled: turn.place === 0, "data-keep": "back" }), button("Next", on, { hint: "→", "data-keep": "next" }),
      button("Skip", skip, { hint: "s", "data-keep": "skip" }), undo(body, tools), saved(body)),
  ];
}

function undo(body, { send, keys }) {
  const take = () => send("undo");
  if (body.undo) keys({ u: take, Backspace: take });
  return button("Undo", take, { hint: "u", disabled: !body.undo, "data-keep": "undo" });
}

const saved = (body) => h("span", { class: "es-told soft" }, body.told || `Each click is saved in ${body.file}.`);

function finished(body, tools) {
  const { send, keys } = tools;
  const left = body.progress.total - body.progress.done;
  const again = () => send("go", { to: body.next });
  keys({ ArrowRight: again, ArrowLeft: () => send("go", { to: body.progress.total - 1 }) });
  return [
    h("h3", {}, left ? `${left} still to do` : "All done. Thank you."),
    body.tables.length ? h("p", { class: "soft" }, "Names are shown now, and what others said.") : null,
    h("div", { class: "row" }, button(left ? "Go on" : "Look again from the start", again, { "data-keep": "again", hint: "→", class: left ? "main" : null }), undo(body, tools), saved(body)),
  ];
}

const MANY = 8; // Rows of a table before the rest is folded

function tables(body, { send }) {
  const line = (table, n) => h("tr", {}, table.rows[n].map((text, column) => {
    const place = table.places[n];
    const link = column === 0 && Number.isInteger(place);
    return h("td", { dir: "auto" }, link ? h("button", { type: "button", class: "es-link", click: () => send("go", { to: place }), "aria-label": `Show ${text}` }, text) : text);
  }));
  const part = (table, from, to) => h("table", {}, h("thead", {}, h("tr", {}, table.head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, table.rows.slice(from, to).map((_, n) => line(table, from + n))));
  return body.tables.map((table) => h("div", { class: "scroll es-table" }, h("h4", {}, table.title), part(table, 0, MANY),
    table.rows.length > MANY ? h("details", { "data-keep": table.title }, h("summary", {}, `${table.rows.length - MANY} more rows`), part(table, MANY)) : null));
}

function draw(view, tools) {
  const body = view.body || {};
  if (!body.progress) return [h("p", { class: "soft" }, "There is nothing to show.")];
  const share = body.progress.total ? body.progress.done / body.progress.total : 0;
  const bar = h("div", { class: "llmops-bar", role: "progressbar", "aria-label": "Answers done", "aria-valuemin": "0", "aria-valuemax": String(body.progress.total), "aria-valuenow": String(body.progress.done), "aria-valuetext": body.progress.text }, h("span", { style: `width: ${100 * share}%` }));
  const head = h("div", { class: "row es-head" }, h("b", {}, body.rater), h("span", { class: "chip" }, body.blind && body.turn ? "names hidden" : "names shown"), bar, h("span", { class: "soft number" }, body.progress.text),
    body.blind && body.turn ? button("Show names", () => tools.send("reveal"), { class: "es-quiet", "data-keep": "reveal", title: "Shows names, results and other people's labels; labels after that are marked as not blind" }) : null);
  const main = body.turn ? scored(body, tools) : finished(body, tools);
  tools.say([body.told, body.turn ? `Question ${body.turn.count}: ${body.turn.question.slice(0, 300)}` : "All done."].filter(Boolean).join(" "));
  return [head, body.task || body.progress.out ? h("p", { class: "soft" }, [body.task, body.progress.out].filter(Boolean).join(" · ")) : null, ...main, ...tables(body, tools)];
}

export default widget(draw);
