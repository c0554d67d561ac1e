"use strict";
// The steps in columns; one that leads back to itself stays where it is. Lines from one to another hold a place in
// each column that they pass, so that they run between the steps.

function columned(steps, byName) {
  const depth = depths(steps, byName), columns = [], before = new Map(), lines = [], rank = new Map();
  const add = (level, id) => {
    (columns[level] ??= []).push(id);
    before.set(id, []);
  };
  for (const step of steps) add(depth.get(step.name), step.name);
  for (const step of steps) {
    for (const next of (step.next || []).filter((name) => byName.has(name))) {
      const line = [step.name];
      for (let level = depth.get(step.name) + 1; level < depth.get(next); level++) {
        const id = `${level}\0${step.name}\0${next}`;
        add(level, id);
        before.get(id).push(line.at(-1));
        line.push(id);
      }
      before.get(next).push(line.at(-1));
      lines.push([...line, next]);
    }
  }
  const mean = (id) => {
    const ranks = before.get(id).map((one) => rank.get(one)).filter((one) => one !== undefined);
    return ranks.length ? ranks.reduce((sum, one) => sum + one, 0) / ranks.length : 0.5;
  };
  for (const column of columns.filter(Boolean)) {
    column.sort((one, other) => mean(one) - mean(other));
    column.forEach((id, index) => rank.set(id, (index + 0.5) / column.length));
  }
  return { columns: columns.filter(Boolean), lines };
}

// How many columns lead to each step, at most.

function depths(steps, byName) {
  const depth = new Map();
  const place = (name, level, above) => {
    if (!byName.has(name) || above.includes(name) || (depth.get(name) ?? -1) >= level) return;
    depth.set(name, level);
    for (const next of byName.get(name).next || []) place(next, level + 1, [...above, name]);
  };
  const led = new Set(steps.flatMap((step) => (step.next || []).filter((next) => next !== step.name)));
  for (const step of steps) if (!led.has(step.name)) place(step.name, 0, []);
  for (const step of steps) if (!depth.has(step.name)) place(step.name, 0, []);
  return depth;
}

function curve([from, ...places]) {
  const to = places.at(-1);
  if (to.x <= from.x) return `M ${from.x + from.width / 2} ${from.y} C ${from.x + from.width} ${from.y - 18} ${to.x} ${to.y - 18} ${to.x + to.width / 2} ${to.y}`;
  let x = from.x + from.width, y = from.middle, path = `M ${x} ${y}`;
  for (const place of places) {
    const half = (x + place.x) / 2;
    path += ` C ${half} ${y} ${half} ${place.middle} ${place.x} ${place.middle}`;
    if (place !== to) path += ` h ${place.width}`;
    [x, y] = [place.x + place.width, place.middle];
  }
  return path;
}

function curveDown([from, ...places]) {
  const to = places.at(-1), center = (place) => place.x + place.width / 2;
  if (to.y <= from.y) return `M ${from.x + from.width} ${from.middle} C ${from.x + from.width + 18} ${from.y} ${to.x + to.width + 18} ${to.y} ${to.x + to.width} ${to.middle + 8}`;
  let x = center(from), y = from.y + 44, path = `M ${x} ${y}`;
  for (const place of places) {
    const half = (y + place.y) / 2;
    path += ` C ${x} ${half} ${center(place)} ${half} ${center(place)} ${place.y}`;
    if (place !== to) path += " v 44";
    [x, y] = [center(place), place.y + 44];
  }
  return path;
}
