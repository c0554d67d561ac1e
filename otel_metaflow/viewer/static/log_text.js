const ESCAPES = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f]/g;
const INDENT = 4;  // columns, of a line that is wrapped where there are few
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
// As viewer/frames.py has it.
const FRAME = /^([ |]*  )File "([^"]*)", line \d+, in /, OWN = /[/\\](?:(?:site|dist)-packages|metaflow|\.mf_code)[/\\]metaflow[/\\]/;

// What the log's lines are made of: runs of text that look alike. Times and sources stand before the first line of a record.

const stamped = (line) => (line.at / 1000).toFixed(3).padStart(9);
const plainly = (text) => ({ text, runs: [{ text, look: "" }] });

// The lines of a record, each with its text and its runs; a look goes on over the end of a line.

function styled(line) {
  const lines = [{ text: "", runs: [] }], look = { fg: null, bg: null, inverse: false, more: new Set() };
  const put = (part) => part.split("\n").forEach((text, index) => {
    if (index) lines.push({ text: "", runs: [] });
    if (!text) return;
    lines.at(-1).text += text;
    lines.at(-1).runs.push({ text, look: classes(look) });
  });
  let from = 0;
  for (const match of line.text.matchAll(ESCAPES)) {
    put(line.text.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[1] !== undefined) restyle(look, match[1]);
  }
  put(line.text.slice(from));
  return lines;
}

// A line's items in the log: one, or as many as it needs where lines are wrapped at so many columns.

function wrapped(line, lines, query, columns) {
  const items = [], head = [...stamped(line)].length + [...line.source].length + 2;
  const isTight = columns < 80, isAlone = isTight && head > columns / 3;
  const indent = isTight && columns !== Infinity ? INDENT : head;
  if (isAlone) items.push({ line, head: true, isFirst: true, indent: 0, runs: [] });
  lines.forEach((each, index) => {
    const runs = found(each, query);
    let left = [], room = 0;
    const start = () => {
      const hasHead = !items.length;
      left = [];
      room = columns - (hasHead ? head : indent);
      items.push({ line, head: hasHead, isFirst: hasHead, indent: hasHead ? 0 : indent, runs: left });
    };
    start();
    for (const run of runs) {
      if (columns === Infinity) {
        left.push(run);
        continue;
      }
      let text = "";
      const flush = () => {
        if (text) left.push({ ...run, text });
        text = "";
      };
      for (const character of run.text) {
        const cells = character === "\t" ? 8 : WIDE.test(character) ? 2 : 1;
        if (room < cells) {
          flush();
          start();
        }
        text += character;
        room -= cells;
      }
      flush();
    }
  });
  return items;
}

// The runs of a line, cut where the query was found in it.

function found({ text, runs }, query) {
  if (!query) return runs;
  const lower = text.toLowerCase(), cuts = [];
  if (lower.length === text.length) {
    for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, at + query.length)) cuts.push([at, at + query.length]);
  }
  const pieces = [];
  let begin = 0;
  for (const run of runs) {
    const end = begin + run.text.length;
    let at = begin;
    for (const [from, to] of cuts) {
      if (to <= at || from >= end) continue;
      if (from > at) pieces.push({ ...run, text: text.slice(at, from) });
      pieces.push({ ...run, text: text.slice(Math.max(at, from), Math.min(to, end)), isFound: true });
      at = Math.min(to, end);
    }
    if (at < end) pieces.push({ ...run, text: text.slice(at, end) });
    begin = end;
  }
  return pieces;
}

// SGR, the looks of terminals: of all colours only eight are shown, each readable by light and by dark.

const ON = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 9: "struck" };
const OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 29: ["struck"] };

function restyle(look, codes) {
  const list = codes.split(/[;:]/).map(Number);
  for (let index = 0; index < list.length; index++) {
    const code = list[index];
    if (code === 38 || code === 48) {
      const is256 = list[index + 1] === 5, end = index + (is256 ? 2 : 4);
      look[code === 38 ? "fg" : "bg"] = is256 ? of256(list[end]) : nearest(list.slice(end - 2, end + 1));
      index = end;
    } else if (code === 0) Object.assign(look, { fg: null, bg: null, inverse: false, more: new Set() });
    else if (ON[code]) look.more.add(ON[code]);
    else if (OFF[code]) OFF[code].forEach((name) => look.more.delete(name));
    else if (code === 7 || code === 27) look.inverse = code === 7;
    else if (code === 39) look.fg = null;
    else if (code === 49) look.bg = null;
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) look.fg = code % 10;
    else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) look.bg = code % 10;
  }
}

function classes({ fg, bg, inverse, more }) {
  const names = [...more];
  if (inverse && bg === null) names.push(fg === null ? "inverse" : `i${fg}`);
  else {
    const [ink, paper] = inverse ? [bg, fg] : [fg, bg];
    if (ink !== null) names.push(`c${ink}`);
    if (paper !== null) names.push(`b${paper}`);
  }
  return names.join(" ");
}

// One of 256: sixteen named ones, a cube of six by six by six, and greys.

function of256(number) {
  if (!(number >= 0 && number <= 255)) return null;
  if (number < 16) return number % 8;
  if (number >= 232) return nearest([number - 232, number - 232, number - 232].map((grey) => grey * 10 + 8));
  return nearest([36, 6, 1].map((step) => Math.floor((number - 16) / step) % 6 * 51));
}

function nearest(channels) {
  if (channels.length < 3 || channels.some((one) => !(one >= 0 && one <= 255))) return null;
  const most = Math.max(...channels), least = Math.min(...channels), middle = (most + least) / 2;
  if (most - least < 40) return middle > 127 ? 7 : 0;
  return channels.reduce((sum, one, index) => sum + (one > middle ? 2 ** index : 0), 0);
}

// Lines in which each row of Metaflow's own frames is one line that counts them, with what it hides.

function folds(lines) {
  const found = [];
  let fold = null;
  for (const text of lines) {
    const frame = FRAME.exec(text);
    if (!frame && fold && (text.startsWith(`${fold.margin}  `) || text.startsWith(`${fold.margin}[Previous line repeated `))) {
      fold.hidden.push(text);
    } else if (frame && OWN.test(frame[2])) {
      if (!fold || fold.margin !== frame[1]) found.push(fold = { margin: frame[1], count: 0, hidden: [] });
      fold.count++;
      fold.hidden.push(text);
      fold.text = `${fold.margin}… ${many(fold.count, "frame")} of Metaflow`;
    } else {
      fold = null;
      found.push({ text });
    }
  }
  return found;
}

// Records without Metaflow's own frames, be a traceback one record or printed line by line.

function unframed(records) {
  const shown = [], latest = new Map();  // by source: the fold that its last line is in
  for (const line of records) {
    if (line.plain.includes("\n")) {
      shown.push({ line, shown: line.plain.includes("/metaflow/") || line.plain.includes("\\metaflow\\") ? foldedRecord(line) : styled(line) });
      continue;
    }
    const fold = latest.get(line.source), frame = FRAME.exec(line.plain);
    if (!frame && fold && (line.plain.startsWith(`${fold.margin}  `) || line.plain.startsWith(`${fold.margin}[Previous line repeated `))) continue;
    if (!frame || !OWN.test(frame[2])) {
      latest.delete(line.source);
      shown.push({ line });
    } else if (fold && fold.margin === frame[1]) {
      fold.count++;
      fold.item.shown = [plainly(`${fold.margin}… ${many(fold.count, "frame")} of Metaflow`)];
    } else {
      const item = { line, shown: [plainly(`${frame[1]}… 1 frame of Metaflow`)] };
      latest.set(line.source, { margin: frame[1], count: 1, item });
      shown.push(item);
    }
  }
  return shown;
}

function foldedRecord(line) {
  const lines = styled(line);
  let index = 0;
  return folds(lines.map(({ text }) => text)).map(({ text, hidden }) => {
    const own = lines[index];
    index += hidden ? hidden.length : 1;
    return hidden ? plainly(text) : own;
  });
}
