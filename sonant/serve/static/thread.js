/** The conversation on the page: what was asked, what is answered while it is answered, and how fast. */

import { ClipView } from "./clip-view.js";
import { el, icon, iconButton, toast } from "./dom.js";

/** @typedef {import("./types.js").Message} Message @typedef {import("./types.js").AudioPart} AudioPart */

const NEAR_PX = 40; // a reader so near to the end wants to see what comes
const MARKS = { stopped: "stopped before its end", length: "cut off: the longest answer is reached" };

export class Thread {
  /**
   * @param {HTMLElement} element
   * @param {import("./player.js").Player} player
   * @param {{onChange: () => void, onAgain: () => void}} told  a transcript was corrected; ask the last question again
   */
  constructor(element, player, told) {
    this.element = element;
    this.player = player;
    this.told = told;
    /** @type {Map<AudioPart, ClipView>} */
    this.clips = new Map();
    this.scroller = element.parentElement;
    this.following = true;
    this.scroller.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.scroller;
      this.following = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    });
  }

  /** Shows messages in place of what was there. @param {Message[]} messages */
  show(messages) {
    this.element.replaceChildren();
    this.clips.clear();
    for (const message of messages) this.add(message);
    this.toEnd();
  }

  /** @param {Message} message */
  add(message) {
    if (message.role === "assistant") new AnswerView(this, message).finish();
    else this.element.append(this.#question(message));
    this.toEnd();
  }

  /** Returns the view of an answer that begins. @param {Message} message  to which parts will be added */
  begin(message) {
    const view = new AnswerView(this, message);
    view.element.classList.add("writing");
    this.element.setAttribute("aria-busy", "true");
    this.follow();
    return view;
  }

  /** Offers to ask again, where an answer is missing. @param {string} why */
  offer(why) {
    const again = el("button", { className: "button", onclick: () => this.told.onAgain() }, icon("again"), "Ask again");
    this.element.append(el("div", { className: "notice", role: "alert" }, el("p", {}, why), again));
    this.follow();
  }

  /** Draws every clip again: sizes or colours have changed. */
  redraw() {
    this.clips.forEach((view) => view.draw());
  }

  /** Keeps the end in sight, unless the reader has gone elsewhere. */
  follow() {
    if (this.following) this.toEnd();
  }

  /** Shows the end, and follows it from now on. */
  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.following = true;
  }

  /** Returns the view of a clip, known by its part. @param {AudioPart} part @param {string} label @param {boolean} [asked] */
  clip(part, label, asked = false) {
    const options = asked ? { label, onTranscript: this.told.onChange } : { label };
    const view = new ClipView(part, this.player, options);
    this.clips.set(part, view);
    return view;
  }

  /** @param {Message} message */
  #question({ role, parts }) {
    const bubble = el("article", { className: `message ${role}`, "aria-label": role === "user" ? "You" : "Instructions" });
    for (const part of parts) {
      if (part.type === "text") bubble.append(el("p", { className: "text" }, part.text));
      else bubble.append(this.clip(part, part.name ?? "your clip", true).element);
    }
    return bubble;
  }
}

/** An answer, from its first letter to its timings. */
class AnswerView {
  /** @param {Thread} thread @param {Message} message */
  constructor(thread, message) {
    this.thread = thread;
    this.message = message;
    this.text = el("p", { className: "text" });
    this.sound = el("div", { className: "sound" });
    this.foot = el("footer", { className: "foot" });
    this.element = el("article", { className: "message assistant", "aria-label": "Answer" }, this.text, this.sound, this.foot);
    thread.element.append(this.element);
    this.clip = null;
    this.update();
  }

  /** Shows text and sound as they are now. */
  update() {
    const { parts } = this.message;
    this.text.textContent = parts.map((part) => (part.type === "text" ? part.text : "")).join("").trim();
    const said = parts.find((part) => part.type === "audio");
    if (said && !this.clip) {
      this.clip = this.thread.clip(said, "the spoken answer");
      this.sound.append(this.clip.element);
    } else {
      this.clip?.refresh();
    }
    // What is said is shown where it is not simply all that is written above.
    if (this.clip && said.transcript === this.text.textContent) this.clip.heard.hidden = true;
    this.thread.follow();
  }

  /** Shows how it ended and how long it took. */
  finish() {
    const { message } = this;
    this.element.classList.remove("writing");
    this.thread.element.removeAttribute("aria-busy");
    this.update();
    if (!this.text.textContent) this.text.replaceWith(el("p", { className: "text empty" }, "No words came."));
    const copy = () => navigator.clipboard?.writeText(this.text.textContent).then(() => toast("Copied."));
    this.foot.replaceChildren(
      ...figures(message),
      el("span", { className: "space" }),
      iconButton("copy", "Copy the answer", copy),
      iconButton("again", "Ask again", () => this.thread.told.onAgain(), "small again"),
    );
    this.thread.follow();
  }
}

/** Returns what there is to say about how an answer came. @param {Message} message */
function figures({ timings, finish }) {
  const { firstWordMs, firstSoundMs, wholeMs, realTimeFactor, tokens } = timings ?? {};
  const shown = [
    figure("first word", took(firstWordMs), "From the end of the question to the first word on the screen"),
    figure("first sound", took(firstSoundMs), "From the end of the question to the first sound"),
    figure("whole", took(wholeMs), "From the end of the question to the end of the answer"),
    figure("real-time factor", realTimeFactor?.toFixed(2), "Seconds of work for a second of speech: below 1 is faster than speech"),
    figure("tokens", tokens, "Written by the model"),
  ];
  if (finish in MARKS) shown.push(el("span", { className: "mark" }, MARKS[finish]));
  return shown.filter(Boolean);
}

/** @param {string} label @param {string | number | undefined} value @param {string} meaning */
function figure(label, value, meaning) {
  return value ? el("span", { title: meaning }, `${label} `, el("b", {}, String(value))) : null;
}

/** Returns a span of time as it is read: 84 ms, 1.2 s. @param {number} [ms] */
function took(ms) {
  if (!ms) return "";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
