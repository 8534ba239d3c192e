// What all widgets share, put before a widget's own script: `export default widget(draw)` is that script's last line.
//
//   draw(view, tools) returns elements for view.body. It is called again for every snapshot and keeps nothing itself:
//   what is on the screen is made like what it returned (renew), so that carets, selections and open lists stay.
//
// Python computes, this draws. All texts are hostile: they were written by models, users and documents. So they only
// ever become text nodes, through h(); nothing here writes HTML, and no name from the data becomes an attribute name.

const SVG = "http://www.w3.org/2000/svg";
const HEARS = Symbol("listeners"); // On an element: what it does when something happens to it
const DRAWN = Symbol("drawn value"); // On a field: what Python last said it holds
const TOUCHED = Symbol("touched"); // On a field: somebody has typed or chosen since

// h("p", { class: "soft", click: f }, "text", element): strings become text nodes, functions listeners, nothing else.
const h = (name, attributes, ...children) => make(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => make(document.createElementNS(SVG, name), attributes, children);

function make(element, attributes, children) {
  const acts = {};
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") acts[key] = value;
    else if (key === "value") element.value = value;
    else if (key === "style") element.style.cssText = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false && child !== "").map((child) => (child instanceof Node ? child : String(child))));
  hear(element, acts);
  if (FIELDS.test(element.nodeName)) element[DRAWN] = held(element);
  return element;
}

// One listener for each event stays with its element; what it does is replaced by every drawing.
function hear(element, acts) {
  const listener = (element[HEARS] = element[HEARS] || { handleEvent(event) { const act = this.acts[event.type]; if (act) act(event); } });
  listener.acts = acts;
  for (const type of Object.keys(acts)) element.addEventListener(type, listener); // Adding it twice adds nothing
}

const FIELDS = /^(INPUT|TEXTAREA|SELECT)$/;
const tick = (field) => field.type === "checkbox" || field.type === "radio";
const held = (field) => (tick(field) ? field.checked : field.value);

// Who an element is among its siblings: its name with data-keep, or else with its first class; an option is its value.
function identity(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return node.nodeName;
  const key = node.nodeName === "OPTION" ? node.value : node.dataset.keep;
  return `${node.nodeName} ${key === undefined ? "." + (node.classList[0] || "") : key}`;
}

// Make the children of `place` like `fresh`, with the elements that are there already wherever one is the same.
function renew(place, fresh) {
  const there = new Map();
  for (const node of place.childNodes) { const name = identity(node); if (!there.has(name)) there.set(name, []); there.get(name).push(node); }
  const wanted = fresh.map((node) => (there.get(identity(node)) || []).shift() || node);
  for (const node of [...there.values()].flat()) node.remove();
  wanted.forEach((node, n) => {
    if (place.childNodes[n] !== node) place.insertBefore(node, place.childNodes[n] || null);
    if (node !== fresh[n]) update(node, fresh[n]);
  });
}

function update(node, fresh) {
  if (node.nodeType !== Node.ELEMENT_NODE) { if (node.data !== fresh.data) node.data = fresh.data; return; }
  for (const name of node.getAttributeNames()) if (!fresh.hasAttribute(name) && name !== "open") node.removeAttribute(name); // Readers open and close details
  for (const name of fresh.getAttributeNames()) {
    const value = fresh.getAttribute(name);
    if (node.getAttribute(name) === value) continue;
    if (name === "style") node.style.cssText = value; else node.setAttribute(name, value);
  }
  hear(node, fresh[HEARS] ? fresh[HEARS].acts : {});
  const field = DRAWN in fresh, value = field && held(node);
  renew(node, [...fresh.childNodes]);
  if (field) settle(node, value, fresh[DRAWN]);
}

// What was typed or chosen stays while the field has the focus, and after that until Python is asked (change) or says otherwise.
function settle(field, value, told) {
  const active = field === field.getRootNode().activeElement;
  const stays = field[TOUCHED] && !tick(field) && (active || (told === field[DRAWN] && !("change" in field[HEARS].acts)));
  field[DRAWN] = told;
  field[TOUCHED] = stays;
  for (const wanted of stays ? [value, told] : [told]) { // A choice that is no longer offered gives way
    if (held(field) !== wanted) tick(field) ? (field.checked = wanted) : (field.value = wanted);
    if (held(field) === wanted) return;
  }
}

// A button that names its key: `hint` behind the text, or `lead` before it; `options` are further attributes.
function button(text, press, options = {}) {
  const { hint, lead, ...rest } = options;
  const key = (name) => (name ? h("kbd", { "aria-hidden": "true" }, name) : null);
  return h("button", { type: "button", click: press, "aria-keyshortcuts": NAMES[hint || lead] || hint || lead || null, ...rest }, key(lead), h("span", {}, text), key(hint));
}
const NAMES = { "←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown" };

const WAIT = 6000; // Milliseconds without an answer before the reader is told
const EDITING = /^([acvxyz]|Control|Meta|Alt|Shift)$/i; // With Ctrl or Cmd: of the text that is written or read in the widget, never of the notebook
const MOVING = /^(Enter|Backspace|Delete|Home|End|Arrow\w+)$/; // The same, while somebody types
const TYPING = "input:not([type=checkbox]):not([type=radio]):not([type=button]), textarea, select, [contenteditable=true]";

// One view: its elements, its listeners, and how it gives everything back when it is closed.
function widget(draw) {
  return {
    render({ model, el }) {
      const gone = new AbortController();
      const listen = { signal: gone.signal };
      const voice = h("div", { class: "llmops-unseen", role: "status", "aria-live": "polite" });
      const note = h("div", { class: "llmops-problem", role: "alert", hidden: true });
      const stage = h("div", { class: "llmops-stage" });
      const root = h("section", { class: "llmops-widget", tabindex: "0" }, note, stage, voice);
      let keys = {}; // What a key does now: { "1": f }
      let waiting = 0; // The timer of a command that has no answer yet
      let queue = []; // Keys pressed meanwhile
      let resting = 0;
      let shown = "";

      const say = (text) => { if (voice.textContent !== text) voice.textContent = text; };
      const complain = (text) => { note.hidden = !text; if (note.textContent !== text) note.textContent = text; };

      // A message that nobody waits for; false when there is no kernel to hear it.
      function post(message) {
        try { model.send(message); return true; } catch { return false; }
      }

      // Send a command. Keys pressed before its answer are kept for the state that comes with the answer.
      function send(name, args = {}) {
        clearTimeout(waiting);
        if (!post({ ...args, do: name })) return silent();
        root.setAttribute("aria-busy", "true");
        waiting = setTimeout(silent, WAIT);
      }

      function silent() {
        waiting = 0;
        queue = [];
        root.removeAttribute("aria-busy");
        complain("The kernel does not answer: it is busy, or it has stopped. All that was answered is saved. If it has stopped, run the cell again to go on from there.");
      }

      function answered() {
        clearTimeout(waiting);
        waiting = 0;
        root.removeAttribute("aria-busy");
        redraw();
        while (queue.length && !waiting) press(queue.shift());
      }

      function press(key) {
        const act = keys[key];
        if (act) act();
        return Boolean(act);
      }

      // Draw anew. The focus stays where it is, goes to the new element of the same name, or else to the widget.
      function redraw() {
        const view = model.get("view") || {};
        const scope = root.getRootNode();
        const active = root.contains(scope.activeElement) ? scope.activeElement : null;
        keys = {};
        complain(view.problem || "");
        renew(stage, [draw(view, tools), task(view.task)].flat(4).filter((node) => node instanceof Node));
        if (active && active !== root) {
          const heir = root.contains(active) ? active : at(active.dataset.keep);
          const target = heir && !heir.disabled ? heir : root;
          if (scope.activeElement !== target) target.focus({ preventScroll: true });
        }
        const label = (view.body && view.body.label) || "Widget";
        if (label !== shown) root.setAttribute("aria-label", (shown = label));
      }

      // The element of a name; names are data, so they are compared and never become part of a selector.
      const at = (name) => [...stage.querySelectorAll("[data-keep]")].find((node) => node.dataset.keep === name) || null;

      // Long work: what it does, how far it is, and a way to stop it.
      function task(work) {
        if (!work) return null;
        const running = work.status === "running";
        const bar = h("div", { class: "llmops-bar", role: "progressbar", "aria-label": work.label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": work.share === null ? null : Math.round(100 * work.share) },
          h("span", { style: `width: ${work.share === null ? (running ? 30 : 100) : 100 * work.share}%` }));
        return h("div", { class: "llmops-task", "data-status": work.status }, h("b", {}, work.label), h("span", { class: "soft" }, [running ? "" : work.status, work.count, work.text].filter(Boolean).join(" · ")), bar,
          running ? button("Stop", () => send("stop"), { "data-keep": "stop" }) : null);
      }

      const tools = { h, button, send, at, say, keys: (map) => Object.assign(keys, map), root, signal: gone.signal, own: {} }; // `own` is for what a view must remember between two drawings

      // The notebook around hears no key that is pressed in here, but for those with Ctrl or Cmd, such as saving. JupyterLab
      // listens when the event comes up; Notebook 7 before it comes down, and then climbs from its target to the attribute.
      const notebooks = (event) => (event.ctrlKey || event.metaKey || event.altKey) && !EDITING.test(event.key) && !(event.composedPath()[0].matches(TYPING) && (event.altKey || MOVING.test(event.key)));
      const mark = (element, on) => element.toggleAttribute("data-lm-suppress-shortcuts", on);
      let marked = root; // Where the last key was pressed
      window.addEventListener("keydown", (event) => {
        if (!event.composedPath().includes(root)) return;
        mark(marked, false);
        mark((marked = event.target), !notebooks(event));
      }, { ...listen, capture: true });
      root.addEventListener("keydown", (event) => {
        if (notebooks(event)) return;
        event.stopPropagation();
        if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
        const typing = event.target.matches(TYPING);
        if (typing && event.key === "Escape") { root.focus({ preventScroll: true }); event.preventDefault(); return; }
        if (typing || ((event.key === "Enter" || event.key === " ") && event.target !== root)) return;
        if (!(event.key in keys)) return;
        event.preventDefault();
        if (waiting) { if (queue.length < 8) queue.push(event.key); } else press(event.key);
      }, listen);
      root.addEventListener("input", (event) => { event.target[TOUCHED] = true; }, listen);
      root.addEventListener("focusin", () => clearTimeout(resting), listen);
      root.addEventListener("focusout", () => {
        clearTimeout(resting);
        resting = setTimeout(() => { if (!root.contains(root.getRootNode().activeElement)) post({ do: "rest" }); }, 300);
      }, listen);
      model.on("change:view", answered);
      redraw();
      el.append(root);
      post({ do: "hello" });

      return () => {
        gone.abort();
        clearTimeout(waiting);
        clearTimeout(resting);
        model.off("change:view", answered);
        post({ do: "bye" });
        root.remove();
      };
    },
  };
}
