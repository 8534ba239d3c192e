// What all widgets share, put before a widget's own script: `export default widget(draw)` is that script's last line.
//
//   draw(view, tools) returns elements for view.body. It is called again for every snapshot and keeps nothing itself.
//
// Python computes, this draws. All texts are hostile: they were written by models, users and documents. So they only
// ever become text nodes, through h(); nothing here writes HTML, and no name from the data becomes an attribute name.

// h("p", { class: "soft", click: f }, "text", element): strings become text nodes, functions listeners, nothing else.
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false && child !== "").map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

// A button that names its key: `hint` behind the text, or `lead` before it; `options` are further attributes.
function button(text, press, options = {}) {
  const { hint, lead, ...rest } = options;
  const key = (name) => (name ? h("kbd", { "aria-hidden": "true" }, name) : null);
  return h("button", { type: "button", click: press, "aria-keyshortcuts": NAMES[hint || lead] || hint || lead || null, ...rest }, key(lead), h("span", {}, text), key(hint));
}
const NAMES = { "←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown" };

const WAIT = 6000; // Milliseconds without an answer before the reader is told
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
      const root = h("section", { class: "llmops-widget", tabindex: "0", "data-lm-suppress-shortcuts": "true" }, note, stage, voice);
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

      // Draw anew, and put focus, caret and scrolled places back where they were.
      function redraw() {
        const view = model.get("view") || {};
        const scope = root.getRootNode();
        const active = root.contains(scope.activeElement) ? scope.activeElement : null;
        const named = active && active.dataset ? active.dataset.keep : null;
        const typed = active && active.matches(TYPING) && named ? { value: active.value, start: active.selectionStart, end: active.selectionEnd } : null;
        const scrolled = [...stage.querySelectorAll("[data-scroll]")].map((node) => [node.dataset.scroll, node.scrollTop, node.scrollLeft]);
        const opened = new Set([...stage.querySelectorAll("details[data-keep][open]")].map((node) => node.dataset.keep));
        keys = {};
        complain(view.problem || "");
        const find = (attribute, value) => [...stage.querySelectorAll(`[data-${attribute}]`)].find((node) => node.dataset[attribute] === value);
        stage.replaceChildren(...[draw(view, tools), task(view.task)].flat(4).filter((node) => node instanceof Node));
        for (const [name, top, left] of scrolled) { const node = find("scroll", name); if (node) { node.scrollTop = top; node.scrollLeft = left; } }
        for (const name of opened) { const node = find("keep", name); if (node) node.open = true; }
        if (active && active !== root) {
          const node = named ? find("keep", named) : null;
          const target = node && !node.disabled ? node : root;
          if (node && typed && node.matches(TYPING)) {
            node.value = typed.value;
            try { node.setSelectionRange(typed.start, typed.end); } catch { /* a select has no caret */ }
          }
          target.focus({ preventScroll: true });
        }
        const label = (view.body && view.body.label) || "Widget";
        if (label !== shown) root.setAttribute("aria-label", (shown = label));
      }

      // Long work: what it does, how far it is, and a way to stop it.
      function task(work) {
        if (!work) return null;
        const running = work.status === "running";
        const bar = h("div", { class: "llmops-bar", role: "progressbar", "aria-label": work.label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": work.share === null ? null : Math.round(100 * work.share) }, h("span", {}));
        bar.firstChild.style.width = (work.share === null ? (running ? 30 : 100) : 100 * work.share) + "%";
        return h("div", { class: "llmops-task", "data-status": work.status }, h("b", {}, work.label), h("span", { class: "soft" }, [running ? "" : work.status, work.count, work.text].filter(Boolean).join(" · ")), bar,
          running ? button("Stop", () => send("stop"), { "data-keep": "stop" }) : null);
      }

      const tools = { h, button, send, say, keys: (map) => Object.assign(keys, map), root, signal: gone.signal, own: {} }; // `own` is for what a view must remember between two drawings

      root.addEventListener("keydown", (event) => {
        // The notebook's own shortcuts are off inside a widget, but not those with Ctrl or Cmd, such as saving.
        if (event.key === "Control" || event.key === "Meta") root.removeAttribute("data-lm-suppress-shortcuts");
        if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
        const typing = event.target.matches(TYPING);
        if (typing && event.key === "Escape") { root.focus({ preventScroll: true }); event.preventDefault(); event.stopPropagation(); return; }
        if (typing || ((event.key === "Enter" || event.key === " ") && event.target !== root)) { event.stopPropagation(); return; }
        if (!(event.key in keys)) return;
        event.preventDefault();
        event.stopPropagation();
        if (waiting) { if (queue.length < 8) queue.push(event.key); } else press(event.key);
      }, listen);
      root.addEventListener("keyup", (event) => { if (event.key === "Control" || event.key === "Meta") root.setAttribute("data-lm-suppress-shortcuts", "true"); }, listen);
      root.addEventListener("focusin", () => clearTimeout(resting), listen);
      root.addEventListener("focusout", () => {
        root.setAttribute("data-lm-suppress-shortcuts", "true");
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
