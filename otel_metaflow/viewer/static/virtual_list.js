// A long list of which only visible rows are in the document.

class VirtualList {
  constructor(node, height, draw) {
    this.node = node;
    this.height = height;
    this.draw = draw;
    this.items = [];
    this.printed = null;
    this.spacer = make("div", "spacer");
    node.append(this.spacer);
    this.shown = new Map();
    node.addEventListener("scroll", () => this.render(), { passive: true });
    new ResizeObserver(() => this.render()).observe(node);
  }

  show(items) {
    this.items = items;
    this.spacer.style.height = `${items.length * this.height}px`;
    this.clear();
    this.render();
  }

  clear() {
    for (const node of this.shown.values()) node.remove();
    this.shown.clear();
  }

  render() {
    const [first, last] = this.printed || this.inSight();
    for (const [index, node] of this.shown) {
      if (index < first || index >= last) {
        node.remove();
        this.shown.delete(index);
      }
    }
    for (let index = first; index < last; index++) {
      if (this.shown.has(index)) continue;
      const node = this.draw(this.items[index], index);
      node.style.top = `${index * this.height}px`;
      this.shown.set(index, node);
      this.node.append(node);
    }
  }

  inSight() {
    const first = Math.max(0, Math.floor(this.node.scrollTop / this.height) - SPARE);
    return [first, Math.min(this.items.length, first + Math.ceil(this.node.clientHeight / this.height) + 2 * SPARE)];
  }

  reveal(index) {
    const top = index * this.height, below = top + this.height - this.node.clientHeight;
    if (this.node.scrollTop > top) this.node.scrollTop = top;
    if (this.node.scrollTop < below) this.node.scrollTop = below;
    this.render();
  }

  // On paper: from the first to before the last of a range, below each other as the style has them; none to go back.
  print(range) {
    this.printed = range;
    this.clear();
    this.render();
  }
}
