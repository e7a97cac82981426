// Owns the creation of elements. Strings become text nodes, never markup, so keys and attributes cannot inject HTML.

export const byId = (id) => document.getElementById(id);

/** Creates an element. children: elements, or strings, which become text nodes. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
