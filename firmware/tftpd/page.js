// The live part of the page of each folder: what is going on, uploads, deletion. The list itself is
// made by page.py and needs no script. Names come from anybody, so all text is set as text; besides,
// the board's Content-Security-Policy forbids innerHTML and its like.
"use strict";
(() => {
  const POLL_MS = 2000;
  const BUSY_POLL_MS = 1000; // while something is transferred
  const SLOWEST_MS = 16000; // between two attempts to reach a board that does not answer
  const PATIENCE_MS = 8000; // for one of them
  const LONG_LIST = 20; // files from which on a filter helps
  const HERE = location.origin + location.pathname; // not the path alone: "//x/" would be a host

  const body = document.body;
  const main = document.querySelector("main");
  const folder = document.title;

  // An element with properties; children that are strings become text.
  const make = (tag, properties, ...children) => {
    const made = document.createElement(tag);
    made.append(...children);
    return Object.assign(made, properties);
  };
  const number = (value) => value.toLocaleString("en");
  const size = (bytes) => {
    let unit = 0;
    for (; bytes > 999; unit++) bytes /= 1024;
    return bytes.toFixed(unit && bytes < 10) + " " + ["bytes", "KB", "MB", "GB"][unit];
  };
  const span = (ms) => {
    const days = Math.floor(ms / 86400000);
    return (days ? days + " d " : "") + new Date(ms).toISOString().slice(11, 19);
  };
  const clock = (ms) => new Date(ms).toTimeString().slice(0, 8);

  // Ask the board. Resolves to the XMLHttpRequest with any answer, rejects without one.
  const ask = (method, url, properties, data, moved) =>
    new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open(method, url);
      Object.assign(request, properties);
      request.upload.onprogress = moved;
      request.onload = () => resolve(request);
      request.onerror = request.ontimeout = reject;
      request.send(data);
    });

  // -- What the page is made of

  const host = make("b", {}, location.hostname);
  const state = make("span", { role: "status" }, "connecting");
  const quiet = make("small", {}, "nothing is transferred");
  const now = make("ul");
  const facts = make("dl");
  const last = make("ol");
  const booted = make("ul");
  const part = (title, content) => {
    const brief = make("small");
    const details = make("details", { brief }, make("summary", {}, make("h2", {}, title), brief), content);
    details.open = matchMedia("(min-width:60em)").matches;
    return details;
  };
  const board = part("Board", facts);
  const journal = part("Journal", last);
  const boots = part("Boots", booted);
  const picker = make("input", { type: "file", multiple: true, hidden: true });
  const upload = make("button", { onclick: () => picker.click() }, "Upload files");
  const filter = make("input", { type: "search", placeholder: "Filter", ariaLabel: "Filter" });
  const results = make("ul", { ariaLive: "polite" });
  main.before(
    make("header", {}, host, state),
    make("aside", { ariaLabel: "Board" }, make("h2", {}, "Now"), quiet, now, boots, board, journal),
  );
  main.firstChild.after(
    make("p", {}, make("span", { className: "w" }, upload, picker, " or drop them here"), filter),
    results,
  );

  // A line of `now` or of `results`.
  const line = (list, name, text) => {
    const bar = make("progress", { ariaLabel: name });
    const words = make("span", {}, text);
    const item = make("li", { bar, words }, make("b", {}, name), bar, words);
    list.append(item);
    return item;
  };

  // -- The list

  const rows = () => [...main.querySelectorAll("tr")].slice(1);
  const sift = () => {
    for (const row of rows()) row.hidden = !row.innerText.toLowerCase().includes(filter.value.toLowerCase());
  };
  const dress = () => {
    main.querySelector("tr").append(make("th", { className: "r", scope: "col" }, "Delete"));
    for (const row of rows()) {
      const link = row.querySelector("a");
      const bytes = row.lastChild;
      const cell = make("td", { className: "r" });
      if (!/\/$/.test(link)) {
        bytes.textContent = number(+bytes.textContent);
        cell.append(make("button", { ariaLabel: "Delete " + link.text, onclick: () => remove(link) }, "×"));
      }
      row.append(cell);
    }
    filter.hidden = !rows()[LONG_LIST];
    sift();
  };
  const refresh = async () => {
    const table = (await ask("GET", HERE, { responseType: "document" })).response?.querySelector("table");
    if (!table) return;
    const focused = document.activeElement;
    const at = rows().findIndex((row) => row.contains(focused));
    main.querySelector("table").replaceWith(table);
    dress();
    if (at < 0) return;
    const row = rows()[at] || table; // the next one, if that file is gone
    (row.querySelector(focused.tagName) || row.querySelector("a"))?.focus();
  };
  filter.oninput = sift;

  // -- Uploads and deletion

  let writes; // whether this client may store files,
  let replaces; // and replace and delete them
  let changed; // since the list was loaded

  // PUT or DELETE; `item` tells the outcome.
  const change = async (item, method, url, done, data, moved) => {
    let text = "the connection broke off";
    try {
      const answer = await ask(method, url, {}, data, moved);
      text = answer.status < 300 ? done : "refused: " + answer.responseText;
    } catch {}
    item.className = text == done ? "" : "bad";
    item.words.textContent = text;
    item.bar.remove();
    changed = true;
    poll();
  };
  const remove = (link) => {
    if (confirm(`Delete ${link.text}?`)) change(line(results, link.text, ""), "DELETE", link.href, "deleted");
  };
  const plain = (link) => decodeURIComponent(link).toLowerCase();
  let queue = Promise.resolve(); // one upload after the other: a board has few connections
  const store = (file) => {
    const { name, size } = file;
    const url = HERE + encodeURIComponent(name);
    const there = rows().some((row) => plain(row.querySelector("a")) == plain(url));
    if (there && replaces && !confirm(`Replace ${name}?`)) return;
    const item = line(results, name, "");
    item.bar.value = 0;
    const moved = (event) => (item.bar.value = event.loaded / event.total);
    queue = queue.then(() => change(item, "PUT", url, number(size) + " bytes stored", file, moved));
  };
  const take = (files) => [...files].forEach(store);
  picker.onchange = () => {
    take(picker.files);
    picker.value = "";
  };
  const dragged = (event) => {
    if (!writes) return;
    event.preventDefault();
    body.classList.toggle("drop", event.type == "dragover");
    if (event.type == "drop") take(event.dataTransfer.files);
  };
  body.ondragover = body.ondragleave = body.ondrop = dragged;

  // -- What is going on

  const moving = new Map(); // lines of `now` by client, operation and name
  const showNow = (transfers) => {
    const gone = new Set(moving.keys());
    for (const { op, client, name, bytes, size: all, ms } of transfers) {
      const key = client + op + name;
      gone.delete(key);
      if (!moving.has(key)) moving.set(key, line(now, name, ""));
      const { bar, words } = moving.get(key);
      if (all) bar.value = bytes / all;
      words.textContent =
        (/RRQ|GET/.test(op) ? "to " : "from ") +
        `${client}, ${size(bytes)}${all ? " of " + size(all) : ""}, ${Math.round(bytes / (ms || 1))} KB/s`;
    }
    for (const key of gone) {
      moving.get(key).remove();
      moving.delete(key);
    }
    quiet.hidden = moving.size;
  };

  // A line of the journal: seconds since the start; client, operation, name, options; outcome.
  const LINE = /^(?:([\d.]+) )?(?:(\S+) ([A-Z]+) "((?:\\.|[^"\\])*)"(.*?): )?(.*)/;
  let newest;
  const bad = (outcome) => (/^(done|probed)/.test(outcome) ? "" : "bad");
  const showLast = (lines, started, stories) => {
    boots.hidden = !stories[0];
    if (lines.at(-1) == newest) return;
    changed ||= newest && / (WRQ|PUT|DELETE) ".*: done/.test(lines.at(-1));
    newest = lines.at(-1);
    last.replaceChildren(
      ...lines.reverse().map((line) => {
        const [, seconds, client, op, name, , outcome] = LINE.exec(line);
        return make(
          "li",
          { className: op ? bad(outcome) : "" },
          make("time", {}, seconds ? clock(started + seconds * 1000) : ""),
          make("b", {}, name || ""),
          make("span", {}, op ? `${op} ${client}: ${outcome}` : outcome),
        );
      }),
    );
    booted.replaceChildren(
      ...stories.reverse().map(({ client, mac, steps }) =>
        make(
          "li",
          {},
          make("b", {}, [client, mac].join(" ")),
          ...steps.map(([ms, name, outcome, given]) =>
            make(
              "span",
              { className: name && bad(outcome) },
              make("time", {}, clock(started + ms)),
              `${name || "told to boot"}${given ? " → " + given : ""}: ${outcome}`,
            ),
          ),
        ),
      ),
    );
  };

  const known = {}; // values of `facts` by label
  const fact = (label, text, free, all) => {
    if (!known[label]) {
      known[label] = make("dd");
      facts.append(make("dt", {}, label), known[label]);
    }
    known[label].textContent = text;
    if (all) known[label].append(make("meter", { ariaLabel: label, max: all, value: all - free }));
  };
  const room = (label, free, all) => fact(label, size(free) + " free of " + size(all), free, all);

  const show = (status) => {
    const { hostname, rssi, heap, volumes, counters } = status;
    const up = span(status.uptime);
    writes = status.may_write;
    replaces = writes && status.overwrite;
    body.className = (writes ? "writes" : "") + (replaces ? " replaces" : "");
    host.textContent = hostname;
    document.title = hostname + ": " + folder;
    showNow(status.now);
    showLast(status.last, Date.now() - status.uptime, status.boots);
    for (const { root, free, size } of volumes) room(root, free, size);
    room("Heap", heap[0], heap[0] + heap[1]);
    if (rssi) fact("Wi-Fi", rssi + " dBm");
    fact("Up", up);
    const ended = ["done", "failed", "refused"].map((how) => number(counters[how]) + " " + how).join(", ");
    fact("Transfers", ended);
    fact("Delivered", `${size(counters.bytes)}, ${number(counters.resent)} packets resent`);
    fact("Runs", `tftpd ${status.version} on MicroPython ${status.micropython}, ${status.machine}`);
    journal.brief.textContent = ended;
    board.brief.textContent = size(volumes[0].free) + " free, up " + up;
  };

  let timer;
  let turn = 0;
  let heard = Date.now(); // when the board last answered
  let wait = POLL_MS;
  const poll = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    const mine = ++turn;
    let text;
    try {
      const { response } = await ask("GET", "/tftpd/status.json", { responseType: "json", timeout: PATIENCE_MS });
      text = response ? "online" : "busy";
      heard = Date.now();
      if (response) show(response);
      wait = moving.size ? BUSY_POLL_MS : POLL_MS;
      if (changed) {
        changed = false;
        await refresh();
      }
    } catch {
      text = "offline since " + clock(heard);
      wait = Math.min(wait * 2, SLOWEST_MS);
      changed = true;
    }
    if (mine != turn) return; // a later one is on its way
    body.classList.toggle("off", text[1] == "f");
    if (state.textContent != text) state.textContent = text; // a screen reader reads each change
    timer = setTimeout(poll, wait);
  };
  document.onvisibilitychange = window.ononline = poll;

  dress();
  poll();
})();
