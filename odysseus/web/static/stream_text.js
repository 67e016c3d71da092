// Text that grows while it is read. Only what is new is added, and text long past is left out of the layout: an
// answer of 200,000 characters costs a frame no more than a short one.

import { h } from "./dom.js";

const PIECE_CHARS = 4000; // from here on a piece ends at its next line end

export class StreamText {
  element = h("div", { class: "text" });
  #shown = "";
  #piece = null;
  #pieceChars = 0;
  #epoch = 0;

  /**
   * Show *text*. In the same *epoch* it begins with what is shown; in another one that has to be found out. A replay
   * that is still catching up changes nothing, unless it is *over*.
   */
  show(text, epoch, over = false) {
    if (epoch !== this.#epoch) {
      if (!over && text.length < this.#shown.length && this.#shown.startsWith(text)) return;
      this.#epoch = epoch;
      if (!text.startsWith(this.#shown)) this.#clear();
    }
    if (text.length > this.#shown.length) this.#add(text.slice(this.#shown.length));
    this.#shown = text;
  }

  #clear() {
    this.element.replaceChildren();
    this.#shown = "";
    this.#piece = null;
  }

  #add(text) {
    for (let rest = text; rest;) {
      const end = this.#roomIn(rest);
      this.#current().append(rest.slice(0, end));
      this.#pieceChars += end;
      if (end < rest.length || (this.#pieceChars >= PIECE_CHARS && rest[end - 1] === "\n")) this.#settle();
      rest = rest.slice(end);
    }
  }

  /** How much of *text* goes into the current piece: all, or up to a line end, where a cut can't be seen. */
  #roomIn(text) {
    const lineEnd = text.indexOf("\n", Math.max(0, PIECE_CHARS - (this.#piece ? this.#pieceChars : 0)));
    return lineEnd < 0 ? text.length : lineEnd + 1;
  }

  #current() {
    if (!this.#piece) {
      this.#piece = h("div", { class: "piece" });
      this.#pieceChars = 0;
      this.element.append(this.#piece);
    }
    return this.#piece;
  }

  #settle() {
    this.#piece.classList.add("settled");
    this.#piece = null;
  }
}
