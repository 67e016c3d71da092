// What the page says: how answers end, what went wrong, how fast it was.

const STOPPED = {
  user_stop: "Stopped by you",
  client_disconnect: "Stopped: its stream was closed",
  replaced: "Replaced by the next message",
  idle_timeout: "Stopped: nothing came for too long",
  wall_clock_timeout: "Stopped: it took too long",
  log_limit: "Stopped: the answer became too long",
  unattended: "Stopped: nobody was watching",
  upstream_error: "The model server failed",
  internal_error: "The service failed",
  shutdown: "Interrupted: the service was restarted",
  node_lost: "Interrupted: the service broke down",
};

const FINISHED = {
  length: "Cut at the length limit",
  tool_rounds: "Ended: too many tool calls",
  content_filter: "Cut by the model's filter",
};

const ERRORS = {
  network: "The service can't be reached. Check the connection.",
  unauthorized: "Log in to go on.",
  forbidden: "That isn't allowed here.",
  not_found: "It isn't there any more.",
  busy: "This chat is still being answered. Wait, or stop the answer first.",
  too_large: "The message is too long.",
  too_many_runs: "Too much is running at once. Try again in a moment.",
  too_many_requests: "Too many requests. Try again in a moment.",
  too_many_queued_runs: "Too many messages wait in this chat.",
  too_many_subscribers: "Too many are watching. Try again in a moment.",
  draining: "The service is about to restart. Try again in a moment.",
  store_unavailable: "The service can't reach its database. Try again in a moment.",
  models_unknown: "No model server tells its models. Try again in a moment.",
  upstream_unreachable: "The model server can't be reached.",
  upstream_timeout: "The model server went silent.",
  not_ended: "Wait until every answer has ended.",
  already_voted: "A vote has been cast already.",
};

/** How an ended answer is labelled: `{text, tone}`, tone one of `bad`, `cut`, or null; null for one that is just done. */
export function endingOf(answer) {
  if (answer.status === "done") {
    return answer.finishReason in FINISHED ? { text: FINISHED[answer.finishReason], tone: "cut" } : null;
  }
  if (!answer.ended) return null;
  const bad = answer.status === "error";
  const text =
    STOPPED[answer.stopReason] ?? { stopped: "Stopped", error: "Failed", interrupted: "Interrupted" }[answer.status];
  return { text, tone: bad ? "bad" : answer.stopReason === "user_stop" ? null : "cut" };
}

/** What went wrong, of an `ApiError` or a run's own error event. The service's words come behind, where they add some. */
export function problemOf(error) {
  const known = ERRORS[error.code];
  if (known) return error.code.startsWith("upstream") && error.message ? `${known} (${error.message})` : known;
  return error.message ? sentence(error.message) : "Something went wrong.";
}

export function waitingFor(event) {
  const seconds = Math.max(1, Math.round(event.wait_ms / 1000));
  const why =
    event.problem.status === 0 ? "The connection is lost" : problemOf(event.problem).replace(/\.?( Try again.*)?$/, "");
  return `${why}. Trying again in ${seconds} s…`;
}

/** How fast an answer was: time to the first token, tokens a second; as far as they are known. */
export function speedOf(answer) {
  const speed = [];
  if (answer.timings?.ttft_ms != null) speed.push(`${duration(answer.timings.ttft_ms)} to first token`);
  if (answer.tokensPerSecond !== null) speed.push(`${rounded(answer.tokensPerSecond)} tokens/s`);
  return speed;
}

export function duration(ms) {
  if (ms < 1) return "< 1 ms";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Facts in a line, which breaks between them alone. */
export function lineOf(facts) {
  return facts.map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
}

/** When something was: the time of a day of this week, else the date. */
export function when(time) {
  const date = new Date(time);
  const today = new Date().toDateString() === date.toDateString();
  return date.toLocaleString("en", today ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" });
}

/** The heading that a session of this *time* stands under. */
export function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const at = new Date(time).getTime();
  if (at >= midnight) return "Today";
  if (at >= midnight - 86_400_000) return "Yesterday";
  return at >= midnight - 6 * 86_400_000 ? "This week" : "Earlier";
}

function rounded(number) {
  return number < 10 ? number.toFixed(1) : Math.round(number).toLocaleString("en");
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}
