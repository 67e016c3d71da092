// Keeps a scrolled box at its end while the reader is there, and nowhere else.

const NEAR_PX = 40;

export class Follower {
  following = true;
  #element;
  #top = 0;
  #told;

  /** *told* is called when following begins or ends. */
  constructor(element, told = () => {}) {
    this.#element = element;
    this.#told = told;
    element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const sizes = new ResizeObserver(() => this.grown());
    for (const box of [element, ...element.children]) sizes.observe(box);
  }

  /** What it shows has grown. Its size is watched, too: an answer's rendering or a fold that opens changes it later. */
  grown() {
    if (this.following) this.#toEnd();
  }

  follow() {
    this.#set(true);
    this.#toEnd();
  }

  #toEnd() {
    this.#element.scrollTop = this.#element.scrollHeight;
    this.#top = this.#element.scrollTop;
  }

  /** More text may have come since the reader moved, so it is the way they moved that says what they want. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#element;
    const near = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    if (near) this.#set(true);
    else if (scrollTop < this.#top - 2) this.#set(false);
    this.#top = scrollTop;
  }

  #set(following) {
    if (this.following === following) return;
    this.following = following;
    this.#told(following);
  }
}
