// Owns making elements. Text only ever becomes text nodes, so nothing that a key or an attribute says is markup.

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children: elements, or strings, which become text. */
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
