// Nodes, blocks of data and figures. Data of the run is inserted as text, by textContent, never as markup.

const $ = (id) => document.getElementById(id);

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function drawn(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function button(text, act, className = "link") {
  const node = make("button", className, text);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

async function unpack(block) {
  const bytes = Uint8Array.from(atob(block.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function seconds(value) {
  if (value === undefined) return "";
  if (value < 60) return `${value.toFixed(2)}s`;
  const whole = Math.round(value), hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}h${two(minutes)}m` : `${minutes}m${two(whole % 60)}s`;
}

function bytes(count) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (count >= size) return `${(count / size).toFixed(count >= 10 * size ? 0 : 1)} ${unit}`;
  }
  return count ? `${count} B` : "";
}

const clock = (nano) => new Date(nano / 1e6).toLocaleString();

function exactly(milliseconds) {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();  // a damaged journal may hold any time
}

const figure = (count) => count.toLocaleString("en").replaceAll(",", " ");
const many = (count, noun) => `${figure(count)} ${noun}${count === 1 ? "" : "s"}`;
