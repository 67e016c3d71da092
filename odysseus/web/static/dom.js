// Making elements. Text goes in as text: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `on` holds its listeners, `class` and `data-..` and the rest are attributes; null leaves one out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === false) continue;
    if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** A button that is an icon alone, and says what it does. */
export function iconButton(name, label, click) {
  return h(
    "button",
    { class: "icon-button", type: "button", "aria-label": label, title: label, on: { click } },
    icon(name),
  );
}

/** A function that has *work* done once before the next frame is painted, however often it is called. */
export function eachFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

/** Copy *text*, also where the page's origin isn't secure and there is no clipboard for it. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea", { class: "hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A button that copies what *text* returns, and shows that it has. */
export function copyButton(text, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    try {
      await copy(text());
    } catch {
      return; // the browser doesn't let us
    }
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** What was chosen last, where the browser lets us keep it. */
export const kept = {
  get(name) {
    try {
      return localStorage.getItem(`odysseus.${name}`);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(`odysseus.${name}`);
      else localStorage.setItem(`odysseus.${name}`, value);
    } catch {
      // Private windows may refuse; then it is forgotten.
    }
  },
};
