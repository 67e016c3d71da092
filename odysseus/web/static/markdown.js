// An ended answer as the service has rendered it.

import { copyButton, h } from "./dom.js";

const LONG_CHARS = 20_000;

/**
 * An element that shows *html*: a message's `html` field, which the service has sanitised. Nothing else that a model
 * said ever becomes markup.
 */
export function rendered(html) {
  const element = h("div", { class: html.length > LONG_CHARS ? "markdown long" : "markdown" });
  element.innerHTML = html;
  for (const pre of element.querySelectorAll("pre")) {
    const box = h("div", { class: "code" });
    pre.tabIndex = 0; // it scrolls, also for those without a mouse
    pre.replaceWith(box);
    box.append(
      pre,
      copyButton(() => pre.textContent, "Copy the code"),
    );
  }
  for (const table of element.querySelectorAll("table")) {
    const box = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(box);
    box.append(table);
  }
  return element;
}
