// Server-sent events out of any slices of a stream. Pure: it reads nothing itself, and needs no browser.
// Source: the HTML standard, section 9.2.6, "Interpreting an event stream".

export class EventStreamParser {
  // The id of the last event that was whole, as an `EventSource` reports it.
  lastEventId = "";
  // What the stream says one should wait before coming back, in milliseconds; null until it says so.
  retry = null;

  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #pieces = []; // of the line that has begun, joined only when it ends
  #atStart = true;
  #afterCR = false; // a LF that comes now belongs to the line end before it
  #data = [];
  #type = "";
  #id = "";

  /** Take the next slice, bytes or text; return the events that it completes, as `{type, data, lastEventId}`. */
  feed(slice) {
    let text = typeof slice === "string" ? slice : this.#decoder.decode(slice, { stream: true });
    const events = [];
    if (!text) return events;
    if (this.#atStart) {
      this.#atStart = false;
      if (text[0] === "\ufeff") text = text.slice(1);
    }
    let from = 0;
    if (this.#afterCR && text) {
      this.#afterCR = false;
      if (text[0] === "\n") from = 1;
    }
    const lineEnd = /\r\n|\r|\n/g;
    lineEnd.lastIndex = from;
    for (let found; (found = lineEnd.exec(text)); from = lineEnd.lastIndex) {
      this.#pieces.push(text.slice(from, found.index));
      const line = this.#pieces.length === 1 ? this.#pieces[0] : this.#pieces.join("");
      this.#pieces.length = 0;
      this.#take(line, events);
      this.#afterCR = found[0] === "\r" && lineEnd.lastIndex === text.length;
    }
    if (from < text.length) this.#pieces.push(text.slice(from));
    return events;
  }

  #take(line, events) {
    if (line === "") return this.#dispatch(events);
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch(events) {
    this.lastEventId = this.#id;
    if (this.#data.length) {
      events.push({ type: this.#type || "message", data: this.#data.join("\n"), lastEventId: this.#id });
    }
    this.#data = [];
    this.#type = "";
  }
}
