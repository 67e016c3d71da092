// Tells those who listen what is streamed: whole sentences, now and then, never token by token.

const EVERY_MS = 4000;
const MOST_CHARS = 400;

export class Announcer {
  #region;
  #said = 0;
  #at = 0;

  constructor(region) {
    this.#region = region;
  }

  say(text) {
    this.#region.textContent = text;
  }

  begin() {
    this.#said = 0;
    this.#at = performance.now();
    this.say("The answer begins.");
  }

  /** More of the answer's *text* is there. */
  grown(text) {
    if (performance.now() - this.#at < EVERY_MS) return;
    const sentences = /^[^]*[.!?。…](?=\s)/.exec(text.slice(this.#said));
    if (sentences) this.#tell(text, this.#said + sentences[0].length);
  }

  end(text, ending) {
    this.#tell(text, text.length, ending ?? "The answer is complete.");
  }

  #tell(text, end, ending = "") {
    const said = text.slice(this.#said, end).trim();
    this.say(`${said.length > MOST_CHARS ? `${said.slice(0, MOST_CHARS)}…` : said} ${ending}`.trim());
    this.#said = end;
    this.#at = performance.now();
  }
}
