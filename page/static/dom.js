// Elements made of text and elements: nothing here can turn a string into markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties that begin with "on" are listeners; null and false leave an attribute out. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same of SVG. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Let an element say something else; one that says it already is left in peace, as are those who listen to it. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let labels = 0;

/** A label and what it is for. */
export function labelled(text, control) {
  control.id ||= `control-${(labels += 1)}`;
  return h("span", { class: "labelled" }, h("label", { for: control.id }, text), control);
}

/** A choice of values; a value is a string, or [value, what it is called]. */
export function choice(values, chosen, onchange) {
  const options = values.map((value) => (Array.isArray(value) ? value : [value, value]));
  const made = options.map(([value, name]) => h("option", { value, selected: value === chosen }, name));
  return h("select", { onchange: (event) => onchange(event.target.value) }, made);
}

/** Names and what is to be said of each, kept up to date. */
export class Facts {
  constructor() {
    this.element = h("dl", { class: "facts" });
    this.told = new Map();
  }

  show(facts) {
    for (const [name, text] of Object.entries(facts)) {
      if (!this.told.has(name)) {
        const value = h("dd");
        this.told.set(name, value);
        this.element.append(h("div", {}, h("dt", {}, name), value));
      }
      say(this.told.get(name), String(text));
    }
  }
}
