// The leaderboard: what blind votes say of the models.

import { h, svg } from "./dom.js";
import { Odysseus } from "./odysseus.js";
import { count, problemOf } from "./words.js";

const find = (id) => document.getElementById(id);
const MIDDLE = 1000;
const WIDTH = 200;

async function show() {
  let board;
  try {
    board = await new Odysseus().call("GET", "/api/leaderboard");
  } catch (error) {
    find("votes").textContent = error.status === 401 ? "Log in on the chat page first." : problemOf(error);
    return;
  }
  const { votes, models } = board;
  find("votes").textContent = models.length ? `${count(votes, "vote")} so far.` : "Nobody has voted yet.";
  find("board-empty").hidden = models.length > 0;
  find("board-scroll").hidden = !models.length;
  const ends = models.flatMap(({ low, high }) => [low, high]).filter(Number.isFinite);
  const least = Math.min(MIDDLE, ...ends);
  const most = Math.max(MIDDLE, ...ends);
  const at = (rating) => 6 + ((rating - least) / (most - least || 1)) * (WIDTH - 12);
  find("board").replaceChildren(...models.map((model, number) => row(model, number + 1, at)));
}

function row({ model, games, wins, losses, ties, rating, low, high }, rank, at) {
  const interval = `${Math.round(low)} to ${Math.round(high)}`;
  return h(
    "tr",
    {},
    h("td", { class: "rank" }, String(rank)),
    h("th", { class: "name", scope: "row" }, model),
    h("td", {}, String(Math.round(rating))),
    h("td", { class: "range" }, range(rating, low, high, at), h("span", { class: "hidden" }, interval)),
    ...[wins, losses, ties, games].map((number) => h("td", {}, number.toLocaleString("en"))),
  );
}

function range(rating, low, high, at) {
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} 20`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("line", { class: "middle", x1: at(MIDDLE), x2: at(MIDDLE), y1: 1, y2: 19 }),
    svg("line", { class: "span", x1: at(low), x2: at(high), y1: 10, y2: 10 }),
    svg("line", { class: "point", x1: at(rating), x2: at(rating), y1: 10, y2: 10 }),
  );
}

show();
