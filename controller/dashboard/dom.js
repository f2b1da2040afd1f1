// The few ways in which the page is written: elements, text, attributes, keyed lists.
//
// Text is put in as text, always. There is no function here that takes markup, and no other file makes elements in
// another way, so a request line such as `GET /<img src=x onerror=alert(1)>` is nothing but eleven odd characters.
// Each writer compares first: what has not changed costs no style, layout or paint.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes; children are nodes or text. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) mark(element, key, value);
  element.append(...children);
  return element;
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) mark(element, key, value);
  element.append(...children);
  return element;
}

/** One of the page's shapes. It is decoration: the word beside it says the same. */
export function shape(name, className = 'shape') {
  return svg(
    'svg',
    { class: className, 'aria-hidden': 'true', focusable: 'false' },
    svg('use', { href: `#shape-${name}` }),
  );
}

/** Sets the element's text, if it is another. */
export function say(element, text) {
  const value = String(text);
  const only = element.firstChild;
  if (only !== null && only === element.lastChild && only.nodeType === Node.TEXT_NODE) {
    if (only.data !== value) only.data = value;
  } else if (element.textContent !== value || only !== element.lastChild) {
    element.textContent = value;
  }
}

/** Sets an attribute, if it is another; `null`, `undefined` and `false` take it away, `true` sets it empty. */
export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? '' : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Calls `listener` for `type`, and hands the element back, for use inside `el`. */
export function on(element, type, listener) {
  element.addEventListener(type, listener);
  return element;
}

/**
 * A list whose children stay the same elements as long as their keys are there.
 *
 * `make(item)` gives a record with its `root`; `update(record, item)` writes what changed. An element is moved only
 * where the order changed, so focus, scroll position and running transitions survive.
 */
export class Keyed {
  constructor(parent, { key, make, update }) {
    this.parent = parent;
    this.key = key;
    this.make = make;
    this.update = update;
    this.records = new Map();
  }

  show(items) {
    const gone = new Set(this.records.keys());
    let next = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      let record = this.records.get(key);
      if (record === undefined) {
        record = this.make(item);
        this.records.set(key, record);
      }
      gone.delete(key);
      this.update(record, item);
      if (record.root === next) next = next.nextElementSibling;
      else this.parent.insertBefore(record.root, next);
    }
    for (const key of gone) {
      this.records.get(key).root.remove();
      this.records.delete(key);
    }
  }
}
