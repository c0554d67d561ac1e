const ROW = 27, TALL_ROW = 66, TALLEST_ROW = 84, LONG = 34, LINE = 19, SPARE = 12, MANY = 60, FEW = 12, ROWS = 24, MAX_ROWS_PRINTED = 2000, MAX_LINES_PRINTED = 200;
const SLOTS = 100, NODE = 58, LANE = 26, DOWN = 74, FULL = 22;
const LEVELS = ["", "debug", "info", "warning", "error"];
const ORDER = new Intl.Collator("en", { numeric: true });
const LAUNCHER = "launcher";
const NARROW = window.matchMedia("screen and (max-width: 900px)");  // as page.css has it

// The page, once its data is unpacked.

class Page {
  constructor(run, blocks) {
    this.run = run;
    this.blocks = blocks;
    this.unpacked = new Map();
    this.attempts = new Map(run.attempts.map((attempt) => [attempt.name, attempt]));
    this.readers = new Map();
    for (const attempt of run.attempts) {
      for (const read of attempt.inputs || []) {
        if (!this.readers.has(read)) this.readers.set(read, []);
        this.readers.get(read).push(attempt.name);
      }
    }
    this.critical = new Set(run.criticalPath.attempts);
    this.begin = run.startTimeUnixNano;
    this.span = Math.max(1, (run.state === "running" ? run.drawnTimeUnixNano : run.endTimeUnixNano) - this.begin);
    this.open = new Set();
    this.active = 0;
    this.chosen = null;
    this.rows = new VirtualList($("rows"), this.rowHeight(), (item, index) => this.drawRow(item, index));
    this.log = new VirtualList($("log"), LINE, (item) => this.drawLine(item));
    this.records = [];
  }

  draw() {
    drawHeader(this.run);
    this.drawFailure();
    this.drawGraph();
    this.drawPath();
    this.drawScale();
    this.drawUse();
    $("wrap").checked = NARROW.matches;
    this.groups = this.grouped();
    this.showRows();
    this.listen();
    const first = this.run.failure || this.run.criticalPath.attempts.at(-1);
    this.choose(this.attempts.has(first) ? first : LAUNCHER);
  }

  // All rows are as high as the longest name needs.

  rowHeight() {
    const isLong = this.run.attempts.some((one) => one.name.length > LONG);
    $("rows").classList.toggle("long", isLong);
    return NARROW.matches ? (isLong ? TALLEST_ROW : TALL_ROW) : ROW;
  }

  // What failed.

  drawFailure() {
    const run = this.run, failure = this.attempts.get(run.failure);
    const exception = failure ? failure.exception : run.state === "running" || run.state === "success" ? null : run.exception;
    if (!failure && !exception) return;
    const box = $("failure");
    box.hidden = false;
    const what = failure ? failure.error : `${exception.type}: ${exception.message}`;
    box.append(make("h2", "", failure ? `Failed first: ${failure.name}` : "The run failed"), make("p", "", what || ""));
    if (exception && exception.stacktrace) box.append(traceback(exception, true));
    if (failure) box.append(make("p", "", button("Go to this attempt", () => this.goTo(failure.name))));
    const others = run.attempts.filter((one) => isBad(one) && !one.retried && one !== failure).map((one) => one.name);
    if (failure && others.length) box.append(make("p", "others", "Also failed: ", this.named(others)));
  }

  // The graph of the flow.

  drawGraph() {
    const steps = this.run.steps, byName = new Map(steps.map((step) => [step.name, step]));
    if (!steps.some((step) => (step.next || []).length)) {
      $("shape").hidden = true;
      return;
    }
    const { columns, lines } = columned(steps, byName), at = new Map();
    const wide = (id) => (byName.has(id) ? Math.max(86, 9 * [...id].length + 30) : 0), tall = (id) => (byName.has(id) ? NODE : LANE);
    const height = (column) => column.reduce((sum, id) => sum + tall(id), 0), tallest = Math.max(...columns.map(height));
    const across = (column) => column.reduce((sum, id) => sum + (wide(id) || LANE) + 10, -10), widest = Math.max(...columns.map(across));
    const isDown = NARROW.matches;  // from above, where there is no room to go to the right
    let left = 2;
    if (isDown) {
      columns.forEach((column, level) => {
        let x = (widest - across(column)) / 2 + 1;
        for (const id of column) {
          const width = wide(id) || LANE;
          at.set(id, { x, y: level * DOWN + 2, width, middle: level * DOWN + 24 });
          x += width + 10;
        }
      });
    } else for (const column of columns) {
      const width = Math.max(...column.map(wide));
      let top = (tallest - height(column)) / 2;
      for (const id of column) {
        at.set(id, { x: left, y: top + 7, width, middle: top + tall(id) / 2 });
        top += tall(id);
      }
      left += width + 46;
    }
    const [width, tallness] = isDown ? [widest + 2, columns.length * DOWN - 24] : [left - 44, tallest];
    const size = { width, height: tallness, viewBox: `0 0 ${width} ${tallness}` };
    const svg = drawn("svg", { ...size, role: "group", "aria-label": "The flow's steps" });
    const decisive = this.run.criticalPath.attempts.map((name) => this.attempts.get(name).step);
    const pairs = new Set(decisive.map((step, index) => `${step}\0${decisive[index + 1]}`));
    for (const line of lines) {
      const isCritical = pairs.has(`${line[0]}\0${line.at(-1)}`);
      svg.append(drawn("path", { d: (isDown ? curveDown : curve)(line.map((id) => at.get(id))), class: isCritical ? "critical" : "" }));
    }
    for (const [id, place] of at) if (byName.has(id)) svg.append(this.drawNode(byName.get(id), place));
    $("graph").replaceChildren(svg);
  }

  drawNode(step, { x, y, width }) {
    const ran = this.run.attempts.filter((attempt) => attempt.step === step.name);
    const tasks = new Set(ran.map((attempt) => attempt.task)).size;
    const failed = ran.some((attempt) => isBad(attempt) && !attempt.retried);
    const critical = ran.some((attempt) => attempt.critical);
    const text = !ran.length ? (this.run.state === "running" ? "not yet" : "did not run") : failed ? "failed" : tasks > 1 ? many(tasks, "task") : seconds(ran.at(-1).durationSeconds);
    const unseen = step.recorded === false;
    const title = `${step.name}: ${step.type || "step"}, ${many(ran.length, "attempt")}${failed ? ", failed" : ""}${unseen ? ", not recorded" : ""}`;
    const node = drawn("g", { class: `node${failed ? " failed" : ""}${critical ? " critical" : ""}${ran.length ? "" : " idle"}${unseen ? " unseen" : ""}` },
      drawn("title", {}, title),
      drawn("rect", { x, y, width, height: 44 }),
      drawn("text", { x: x + 12, y: y + 19 }, step.name),
      drawn("text", { x: x + 12, y: y + 35, class: "sub" }, unseen && ran.length ? `${text}, not recorded` : text));
    if (!ran.length) return node;
    const show = () => this.goTo((ran.find((attempt) => isBad(attempt) && !attempt.retried) || ran[0]).name);
    for (const [name, value] of [["tabindex", "0"], ["role", "button"], ["aria-label", title]]) node.setAttribute(name, value);
    node.addEventListener("click", show);
    node.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      show();
    });
    return node;
  }

  drawPath() {
    const path = this.run.criticalPath;
    if (!path.attempts.length) return;
    const queued = path.queueSeconds > 0 ? `, ${seconds(path.queueSeconds)} of it queued` : "";
    $("path").append(`Critical path ${this.run.state === "running" ? "so far " : ""}${seconds(path.durationSeconds)}${queued}: `);
    path.attempts.forEach((name, index) => {
      if (index) $("path").append(" → ");
      $("path").append(button(name, () => this.goTo(name)));
    });
  }

  // The waterfall.

  grouped() {
    const groups = new Map();
    for (const attempt of this.run.attempts) {
      if (!groups.has(attempt.step)) groups.set(attempt.step, []);
      groups.get(attempt.step).push(attempt);
    }
    for (const [step, members] of groups) {
      // Retries beside each other, tasks in the order in which they first started.
      const first = new Map();
      for (const each of members) if (!first.has(each.task)) first.set(each.task, each.startTimeUnixNano);
      members.sort((one, other) => first.get(one.task) - first.get(other.task) || ORDER.compare(one.task, other.task) || one.attempt - other.attempt);
      if (members.length <= FEW || this.run.attempts.length <= MANY) this.open.add(step);
    }
    const spansOf = Object.entries(this.run.spans || {});
    // Those of user code only where they leave the attempts in sight.
    if (spansOf.reduce((sum, [, spans]) => sum + spans.length, this.run.attempts.length) <= ROWS) spansOf.forEach(([name]) => this.open.add(name));
    this.open.add(this.run.failure);
    return groups;
  }

  showRows() {
    const items = [];
    for (const [step, members] of this.groups) {
      const isGroup = members.length > 1;
      if (isGroup) items.push({ kind: "group", key: step, step, members, level: 1 });
      if (isGroup && !this.open.has(step)) continue;
      for (const attempt of members) {
        const spans = (this.run.spans || {})[attempt.name] || [];
        items.push({ kind: "attempt", key: attempt.name, attempt, spans, level: isGroup ? 2 : 1 });
        if (spans.length && this.open.has(attempt.name)) items.push(...nested(spans, isGroup ? 3 : 2));
      }
    }
    this.rows.show(items);
    $("rows").style.height = `${Math.min(items.length * this.rows.height + 2, Math.round(window.innerHeight * 0.62))}px`;
    this.setActive(Math.min(this.active, items.length - 1), false);
    const gutter = $("rows").offsetWidth - $("rows").clientWidth;
    $("scale").style.paddingRight = `${12 + gutter}px`;
    if (!items.length) $("links").textContent = "No attempt was recorded.";
    $("unseen").hidden = !this.run.attempts.some(isUnseen);
  }

  drawRow(item, index) {
    const row = item.kind === "group" ? this.drawGroup(item) : item.kind === "attempt" ? this.drawAttempt(item) : this.drawSpan(item);
    row.id = `row-${index}`;
    row.setAttribute("role", "treeitem");
    row.setAttribute("aria-level", item.level);
    const isOpen = this.open.has(item.key), hasMore = item.kind === "group" || (item.spans || []).length > 0;
    if (hasMore) row.setAttribute("aria-expanded", String(isOpen));
    row.classList.toggle("active", index === this.active);
    if (item.key === this.chosen) {
      row.classList.add("chosen");
      row.setAttribute("aria-selected", "true");
    }
    row.addEventListener("click", () => {
      this.setActive(index);
      this.act(item);
    });
    row.addEventListener("mouseenter", () => this.showLinks(item));
    return row;
  }

  drawGroup(item) {
    const bad = item.members.filter(isBad).length, running = item.members.filter((one) => one.state === "running").length;
    const state = running ? "running" : item.members.some((one) => isBad(one) && !one.retried) ? "failure" : item.members.every((one) => one.state === "skip") ? "skip" : "success";
    const start = item.members.reduce((least, one) => Math.min(least, one.startTimeUnixNano), Infinity);
    const end = item.members.reduce((most, one) => Math.max(most, this.ended(one)), 0);
    const errors = item.members.reduce((sum, one) => sum + this.about(one.name).errors, 0);
    const count = item.members.reduce((sum, one) => sum + this.about(one.name).count, 0);
    const name = `${this.open.has(item.key) ? "▾" : "▸"} ${item.step}  ×${item.members.length}`;
    return this.row(`group${state === "failure" ? " bad" : ""}`, name, bad ? `${bad} failed` : state, state, "", (end - start) / 1e9, count, errors,
      [["busy", start, end, this.busy(item.members, start, end)]], item.members.some((one) => one.critical), item.step);
  }

  // How many ran when, and where some failed.

  busy(members, start, end) {
    const slot = (at) => (at - start) / Math.max(1, end - start) * SLOTS, last = SLOTS - 1;
    const counts = new Array(SLOTS).fill(0), failed = new Set();  // on average within a slot
    for (const one of members) {
      const from = slot(one.startTimeUnixNano), to = slot(this.ended(one));
      for (let index = Math.floor(from); index < Math.min(SLOTS, to); index++) {
        counts[index] += Math.min(to, index + 1) - Math.max(from, index);
      }
      if (isBad(one)) failed.add(Math.min(last, Math.floor(to)));
    }
    const peak = Math.max(...counts, Number.MIN_VALUE);
    const box = (index, high) => `M ${index} ${1 - high} h 1 V 1 h -1 Z`;
    const svg = drawn("svg", { viewBox: `0 0 ${SLOTS} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(drawn("path", { d: counts.map((each, index) => box(index, each / peak)).join("") }));
    svg.append(drawn("path", { class: "failed", d: [...failed].map((index) => box(index, Math.max(0.3, counts[index] / peak))).join("") }));
    svg.append(drawn("title", {}, `at most ${figure(this.atOnce(members))} at once`));
    return svg;
  }

  atOnce(members) {
    const moments = members.flatMap((one) => [[one.startTimeUnixNano, 1], [this.ended(one), -1]]);
    moments.sort(([one, by], [other, byOther]) => one - other || by - byOther);
    let count = 0;
    return moments.reduce((most, [, by]) => Math.max(most, (count += by)), 0);
  }

  drawAttempt(item) {
    const one = item.attempt, start = one.startTimeUnixNano, end = this.ended(one);
    const code = one.codeStartTimeUnixNano ?? (one.state === "running" ? end : undefined), left = one.codeEndTimeUnixNano ?? end;
    const parts = [["queue", start - (one.queueSeconds || 0) * 1e9, start]];
    if (isUnseen(one)) parts.push(["unseen", start, end]);
    else if (code === undefined) parts.push([one.state === "skip" ? "whole" : "code", start, end]);
    else parts.push(["load", start, code], ["code", code, left], ["store", left, end]);
    const fold = item.spans.length ? (this.open.has(item.key) ? "▾ " : "▸ ") : "";
    const name = `${fold}${one.name}`;
    const state = one.caught ? "caught" : one.state === "skip" ? "cloned" : one.state;
    const about = this.about(one.name);
    return this.row(`attempt${isBad(one) ? " bad" : ""}`, name, state, one.state, seconds(one.queueSeconds),
      (end - start) / 1e9, about.count + about.omitted, about.errors, parts, one.critical, [one.name, one.error, known(one)].filter(Boolean).join(": "));
  }

  drawSpan(item) {
    const span = item.span, row = this.row("user", "", span.error ? "error" : "", span.error ? "error" : "none", "",
      (span.endTimeUnixNano - span.startTimeUnixNano) / 1e9, 0, 0,
      [[`span${span.error ? " failed" : ""}`, span.startTimeUnixNano, span.endTimeUnixNano]], false,
      [span.name, span.error, ...Object.entries(span.attributes).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`)].filter(Boolean).join("\n"));
    row.firstChild.textContent = span.name;
    row.firstChild.style.paddingLeft = `${18 * item.level}px`;
    return row;
  }

  row(className, name, state, stateClass, queued, took, count, errors, parts, isCritical, title) {
    const track = make("span", "track");
    for (const [part, from, to, picture] of parts) if (to > from || part === "code") track.append(this.bar(part, from, to, picture));
    const label = make("span", "name", isCritical ? make("b", "mark", "◆") : null, name);
    const number = (kind, column, text) => {
      const node = make("span", `number ${kind}`, text);
      if (text) node.dataset.column = column;  // its name, where there is no room for a head
      return node;
    };
    const row = make("div", `row ${className}`, label, make("span", `state ${stateClass}`, state), number("wait", "queued", queued),
      number("took", "took", seconds(took)), number(`logs${errors ? " errors" : ""}`, "logs", count ? figure(count) : ""), track);
    row.title = errors ? `${title}\n${many(errors, "error")} in its log` : title;
    return row;
  }

  bar(part, from, to, picture) {
    const bar = make("b", part, picture), left = Math.min(100, Math.max(0, (from - this.begin) / this.span * 100));
    bar.style.left = `${left}%`;
    bar.style.width = `${Math.max(0, Math.min(100 - left, (to - Math.max(from, this.begin)) / this.span * 100))}%`;
    return bar;
  }

  ended(attempt) {
    return attempt.state === "running" ? this.run.drawnTimeUnixNano : attempt.endTimeUnixNano;
  }

  drawScale() {
    const ticks = make("span", "ticks");
    for (let index = 0; index <= 4; index++) {
      const tick = make("span", "", seconds(this.span / 1e9 * index / 4));
      tick.style.left = `${25 * index}%`;
      ticks.append(tick);
    }
    $("scale").append(...["attempt", "result", "queued", "took", "logs"].map((text) => make("span", "head", text)), ticks);
  }

  setActive(index, isMoving = true) {
    if (index < 0) return;
    const before = this.rows.shown.get(this.active);
    if (before) before.classList.remove("active");
    this.active = index;
    if (isMoving) this.rows.reveal(index);
    const now = this.rows.shown.get(index);
    if (now) now.classList.add("active");
    $("rows").setAttribute("aria-activedescendant", `row-${index}`);
    if (isMoving) this.showLinks(this.rows.items[index]);
  }

  act(item) {
    if (item.kind === "attempt" && item.key !== this.chosen) this.choose(item.key);
    else if (item.kind !== "user") this.toggle(item);
  }

  toggle(item, isOpen = !this.open.has(item.key)) {
    if (isOpen) this.open.add(item.key);
    else this.open.delete(item.key);
    this.showRows();
  }

  showLinks(item) {
    for (const node of this.rows.shown.values()) node.classList.remove("linked");
    if (item.kind !== "attempt") {
      $("links").textContent = "";
      return;
    }
    const one = item.attempt, read = one.inputs || [], readers = this.readers.get(one.name) || [];
    const related = new Set([...read, ...readers, one.retries]);
    for (const [index, node] of this.rows.shown) if (related.has(this.rows.items[index].key)) node.classList.add("linked");
    const links = [];
    if (read.length) links.push(`inputs: ${listed(read)}`);
    if (readers.length) links.push(`read by ${listed(readers)}`);
    if (one.retries) links.push(`retry of ${one.retries}`);
    if (one.retried) links.push("retried");
    if (one.clonedFrom) links.push(`cloned from ${one.clonedFrom}`);
    $("links").textContent = links.length ? `${one.name}: ${links.join("; ")}` : "";
  }

  // The attempt that made the run fail; of a run that did not, the first that failed, then the first whose exception was caught.

  goToFailure() {
    const attempts = this.run.attempts;
    const name = this.run.failure || (attempts.find(isBad) || attempts.find((one) => one.caught) || {}).name;
    if (name) this.goTo(name);
    else $("links").textContent = "No attempt failed.";
  }

  goTo(name) {
    const attempt = this.attempts.get(name);
    if (!attempt) return;
    if (!this.open.has(attempt.step)) {
      this.open.add(attempt.step);
      this.showRows();
    }
    this.setActive(this.rows.items.findIndex((item) => item.key === name));
    this.choose(name);
    $("detail").scrollIntoView({ block: "nearest" });
  }

  // One attempt, and its log.

  about(name) {
    return this.run.logs[name] || { chunk: 0, count: 0, errors: 0, omitted: 0 };
  }

  async choose(name) {
    this.chosen = name;
    for (const [index, node] of this.rows.shown) {
      const isChosen = this.rows.items[index].key === name;
      node.classList.toggle("chosen", isChosen);
      if (isChosen) node.setAttribute("aria-selected", "true");
      else node.removeAttribute("aria-selected");
    }
    this.drawFacts(this.attempts.get(name));
    const chunk = this.about(name).chunk;
    if (!this.unpacked.has(chunk)) this.unpacked.set(chunk, unpack(this.blocks[chunk]));
    const lines = await this.unpacked.get(chunk);
    if (this.chosen !== name) return;
    const [since, levels, sources, texts] = lines[name] || [[], [], [], []];
    let at = 0;
    this.records = texts.map((text, index) => {
      at += since[index] / 1000;
      return { at, level: levels[index], source: sources[index], plain: text.replace(ESCAPES, ""), text };
    });
    $("log").scrollTop = 0;
    this.filter();
    $("log").style.height = `${Math.min(FULL, Math.max(2, this.log.items.length)) * LINE + SPARE}px`;
  }

  drawFacts(one) {
    const facts = $("facts");
    facts.replaceChildren();
    const title = make("h2", "", one ? one.name : "The launcher");
    title.id = "detail-title";
    const other = one ? button("the launcher's log", () => this.choose(LAUNCHER)) : null;
    facts.append(make("div", "top", title, one ? pill(one.state) : null, make("span", "end", other)));
    if (!one) return;
    const usage = one.usage || {}, requested = (this.run.steps.find((step) => step.name === one.step) || {}).requested || {};
    const between = (from, to) => (from === undefined || to === undefined ? undefined : Math.max(0, to - from) / 1e9);
    const beside = (text, want) => (text && want ? `${text} of ${want} requested` : text);
    const list = make("dl", "about");
    const add = (name, value) => {
      if (value) list.append(make("div", "", make("dt", "", name), make("dd", "", value)));
    };
    add("started", clock(one.startTimeUnixNano));
    add("queued", seconds(one.queueSeconds));
    add("started up", seconds(between(one.startTimeUnixNano, one.codeStartTimeUnixNano)));
    add("user code", seconds(between(one.codeStartTimeUnixNano, one.codeEndTimeUnixNano)));
    add("stored", seconds(between(one.codeEndTimeUnixNano, one.endTimeUnixNano)));
    add("CPU", beside(usage.cpu === undefined ? "" : `${usage.cpu.toFixed(2)} s`, requested.cpu && many(requested.cpu, "core")));
    add("memory", beside(bytes(usage.memoryPeak || 0), requested.memory && bytes(requested.memory)));
    add("read, written", usage.read || usage.written ? `${bytes(usage.read) || "0 B"}, ${bytes(usage.written) || "0 B"}` : "");
    add("artifacts", one.artifacts && one.artifacts.count ? `${one.artifacts.count}, ${bytes(one.artifacts.bytes)}` : "");
    add("foreach", one.foreachIndex ? `index ${one.foreachIndex.join(", ")}${one.foreachValue === undefined ? "" : `: ${one.foreachValue}`}` : "");
    add("signal", one.signal);
    add("exit code", one.exitCode ? String(one.exitCode) : "");
    add("cloned from", one.clonedFrom);
    add("telemetry", known(one));
    add("inputs", this.named(one.inputs || []));
    add("read by", this.named(this.readers.get(one.name) || []));
    add("retry of", one.retries && this.named([one.retries]));
    add("span", one.spanId);
    facts.append(list);
    if (one.exception && one.exception.stacktrace) facts.append(traceback(one.exception, one.name !== this.run.failure));
    else if (one.error) facts.append(make("pre", "", one.error));
  }

  named(names) {
    if (!names.length) return null;
    const node = make("span", "");
    names.slice(0, FEW).forEach((name, index) => node.append(index ? ", " : "", button(name, () => this.goTo(name))));
    if (names.length > FEW) node.append(` and ${names.length - FEW} more`);
    return node;
  }

  filter() {
    const level = Number($("level").value), query = $("search").value.toLowerCase();
    const found = this.records.filter((line) => line.level >= level && (!query || line.plain.toLowerCase().includes(query)));
    const items = [], columns = $("wrap").checked ? this.columns() : Infinity;
    for (const { line, shown } of query ? found.map((line) => ({ line })) : unframed(found)) items.push(...wrapped(line, shown || styled(line), query, columns));
    this.log.show(items);
    for (const node of $("log").querySelectorAll(".empty")) node.remove();
    if (!items.length) {
      const one = this.attempts.get(this.chosen), why = Number($("level").value) === 4 && !query ? "No errors."
        : this.records.length ? "No line matches." : one && one.recorded === false ? "Not recorded (no @otel)." : "No output.";
      $("log").append(make("p", "empty", why));
    }
    const { omitted } = this.about(this.chosen);
    $("count").textContent = `${found.length === this.records.length ? "" : `${figure(found.length)} of `}${many(this.records.length, "record")}`
      + (omitted ? `; ${figure(omitted)} more are not on this page` : "");
  }

  // How many characters go into a line of the log.

  columns() {
    const probe = make("span", "line", "0".repeat(100));
    $("log").append(probe);
    probe.style.minWidth = "0";
    const style = getComputedStyle(probe), padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
    const wide = (probe.getBoundingClientRect().width - padding) / 100;
    probe.remove();
    return Math.max(20, Math.floor(($("log").clientWidth - padding) / wide));
  }

  drawLine({ line, head, indent, runs, isFirst }) {
    const node = make("div", `line l${line.level}`), stamp = stamped(line);
    node.append(make("span", "at", head ? stamp : " ".repeat(Math.min(indent, stamp.length))));
    node.append(make("span", "source", head ? ` ${line.source} ` : " ".repeat(Math.max(0, indent - stamp.length))));
    node.append(...runs.map(({ text, look, isFound }) => {
      const piece = isFound ? make("mark", "", text) : text;
      return look ? make("span", look, piece) : piece;
    }));
    node.title = isFirst ? `${exactly(this.begin / 1e6 + line.at)} ${LEVELS[line.level]}` : "";
    return node;
  }

  // What was used.

  drawUse() {
    const steps = this.run.steps.filter((step) => step.used);
    if (!steps.length) {
      $("use").hidden = true;
      return;
    }
    const table = make("table", "", make("thead", "", make("tr", "",
      ...["step", "attempts", "CPU s", "cores", "CPU requested", "memory", "memory requested", "read", "written"].map((name) => make("th", "", name)))));
    const body = make("tbody");
    for (const { name, used, requested = {} } of steps) {
      body.append(make("tr", "", ...[
        name, figure(used.attempts), used.cpuSeconds === undefined ? "" : used.cpuSeconds.toFixed(2),
        used.cores === undefined ? "" : judged(used.cores.toFixed(2), used.cores, requested.cpu), requested.cpu ?? "",
        judged(bytes(used.memoryPeak), used.memoryPeak, requested.memory), requested.memory ? bytes(requested.memory) : "", bytes(used.read), bytes(used.written),
      ].map((value, index) => {
        const cell = make("td", "", typeof value === "number" ? String(value) : value);
        cell.dataset.column = table.rows[0].cells[index].textContent;
        return cell;
      })));
    }
    table.append(body);
    $("use-table").append(make("div", "table", table));
  }

  // Keys, and what else the page listens to.

  listen() {
    $("level").addEventListener("change", () => this.filter());
    $("search").addEventListener("input", () => this.filter());
    $("wrap").addEventListener("change", () => this.filter());
    let wide = window.innerWidth;
    window.addEventListener("resize", () => {
      if (wide !== window.innerWidth && $("wrap").checked) this.filter();
      wide = window.innerWidth;
    });
    NARROW.addEventListener("change", () => {
      this.rows.height = this.rowHeight();
      $("wrap").checked = NARROW.matches;
      this.drawGraph();
      this.showRows();
      this.filter();
    });
    $("rows").addEventListener("keydown", (event) => this.onRowKey(event));
    $("rows").addEventListener("mouseleave", () => this.showLinks({}));
    window.addEventListener("beforeprint", () => {
      const count = this.log.items.length;
      this.rows.print([0, Math.min(this.rows.items.length, MAX_ROWS_PRINTED)]);
      this.log.print([Math.max(0, count - MAX_LINES_PRINTED), count]);
    });
    window.addEventListener("afterprint", () => {
      this.rows.print(null);
      this.log.print(null);
    });
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      const act = { "/": () => $("search").focus(), t: toggleTheme, f: () => this.goToFailure(), w: () => $("wrap").click() }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }

  onRowKey(event) {
    const item = this.rows.items[this.active], last = this.rows.items.length - 1;
    if (!item) return;
    const move = (index) => this.setActive(Math.min(last, Math.max(0, index)));
    const hasMore = item.kind === "group" || (item.spans || []).length > 0;
    const parent = () => {
      for (let index = this.active - 1; index >= 0; index--) if (this.rows.items[index].level < item.level) return index;
      return this.active;
    };
    const page = Math.max(1, Math.floor($("rows").clientHeight / this.rows.height) - 1);
    const act = {
      ArrowDown: () => move(this.active + 1), ArrowUp: () => move(this.active - 1), Home: () => move(0), End: () => move(last),
      PageDown: () => move(this.active + page), PageUp: () => move(this.active - page),
      ArrowRight: () => (hasMore && !this.open.has(item.key) ? this.toggle(item, true) : move(this.active + 1)),
      ArrowLeft: () => (hasMore && this.open.has(item.key) ? this.toggle(item, false) : move(parent())),
      Enter: () => this.act(item), " ": () => this.act(item),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

const isBad = (attempt) => ["failure", "error", "timeout"].includes(attempt.state);
// It is not known what it did when: its step has no @otel, or it left no journal of its own.
const isUnseen = (one) => (one.recorded === false || one.partial) && one.codeStartTimeUnixNano === undefined && one.state !== "skip";
const known = (one) => (one.recorded === false ? "not recorded (no @otel)" : one.partial ? "partly recorded" : "");
const listed = (names) => names.slice(0, FEW).join(", ") + (names.length > FEW ? ` and ${names.length - FEW} more` : "");

function judged(text, used, requested) {
  const className = !requested ? "" : used > requested ? "over" : used < requested / 4 ? "under" : "";
  const node = make("span", className, text);
  if (className) node.title = className === "over" ? "more than was requested" : "less than a quarter of what was requested";
  return node;
}

// Spans of user code below their attempt, each below its parent.

function nested(spans, level) {
  const known = new Set(spans.map((span) => span.spanId)), below = new Map(), items = [], seen = new Set();
  for (const span of spans) {
    const parent = known.has(span.parentSpanId) && span.parentSpanId !== span.spanId ? span.parentSpanId : "";
    if (!below.has(parent)) below.set(parent, []);
    below.get(parent).push(span);
  }
  const add = (parent, depth) => {
    for (const span of below.get(parent) || []) {
      if (seen.has(span.spanId)) continue;
      seen.add(span.spanId);
      items.push({ kind: "user", key: span.spanId, span, level: depth });
      add(span.spanId, Math.min(depth + 1, FEW));
    }
  };
  add("", level);
  return items;
}

function traceback(exception, isOpen) {
  const details = make("details", "", make("summary", "", "Traceback"));
  const pre = make("pre", "");
  for (const { text, hidden } of folds(exception.stacktrace.split("\n"))) {
    if (pre.childNodes.length) pre.append("\n");
    pre.append(hidden ? make("details", "fold", make("summary", "", text), hidden.join("\n")) : text);
  }
  details.append(pre);
  details.open = isOpen;
  return details;
}

async function main() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches);
  dark.addEventListener("change", () => setTheme(dark.matches));
  const [values, ...blocks] = document.querySelectorAll("script.packed");
  if (!("DecompressionStream" in window)) {
    document.body.prepend(make("p", "note", "This browser is too old for this page: it needs DecompressionStream, which browsers have since 2023."));
    return;
  }
  const page = new Page(await unpack(values), blocks);
  page.draw();
  document.documentElement.dataset.ready = "true";
}

main();
