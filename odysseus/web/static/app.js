// The page put together: who shows what, and where the URL says we are.

import { Announcer } from "./announcer.js";
import { ChatView } from "./chat.js";
import { CompareView } from "./compare.js";
import { Login } from "./login.js";
import { Models } from "./models.js";
import { Odysseus } from "./odysseus.js";
import { SessionList } from "./sessions.js";

const find = (id) => document.getElementById(id);

/** The client, which has the page ask who it is when the service wants to know. */
class PageClient extends Odysseus {
  async open(...call) {
    try {
      return await super.open(...call);
    } catch (error) {
      if (error.status === 401 && call[1] !== "/api/login") login.ask();
      throw error;
    }
  }
}

const client = new PageClient();
const login = new Login(client, () => show());
const announcer = new Announcer(find("announcer"));
const models = new Models(client, find("chat-model"));

const sessions = new SessionList(
  client,
  { element: find("sessions"), search: find("search"), confirm: find("confirm") },
  {
    deleted: (id) => place().id === id && location.assign("#/chat"),
    renamed: (session) => place().id === session.id && title(session.title),
    seen: (list) => chat.seen(list),
  },
);

const chat = new ChatView(client, models, announcer, {
  began(id) {
    history.replaceState(null, "", `#/chat/${id}`);
    sessions.current = id;
    mark("new-chat", false);
  },
  titled: title,
  changed: () => refreshed(),
});

const compare = new CompareView(client, models, announcer, {
  began: (id) => history.replaceState(null, "", `#/compare/${id}`),
  titled: title,
  kept: () => sessions.refresh(),
});

/** `#/chat`, `#/chat/ses_..`, `#/compare`, `#/compare/cmp_..` */
function place() {
  const [, view, id] = /^#\/(chat|compare)(?:\/([\w-]+))?$/.exec(location.hash) ?? [null, "chat"];
  return { view, id: id ?? null };
}

async function show() {
  const { view, id } = place();
  menu(false);
  const [shown, other] = view === "chat" ? [chat, compare] : [compare, chat];
  other.leave();
  find("chat-view").hidden = view !== "chat";
  find("compare-view").hidden = view !== "compare";
  mark("new-chat", view === "chat" && id === null);
  mark("to-compare", view === "compare");
  sessions.current = view === "chat" ? id : null;
  const listed = sessions.refresh();
  const known = models.load().catch(() => null); // a 401 asks for the account, anything else can wait
  shown.open(id);
  if (matchMedia("(hover: hover)").matches) shown.focus();
  await Promise.all([listed, known]);
  compare.showModels();
}

/** A title that the service made comes with the list, so look at it when a run begins and ends. */
async function refreshed() {
  await sessions.refresh();
}

function title(text) {
  find("title").textContent = text;
  document.title = `${text} · Odysseus`;
}

function mark(id, current) {
  if (current) find(id).setAttribute("aria-current", "page");
  else find(id).removeAttribute("aria-current");
}

/** The sidebar of a narrow window. */
function menu(open) {
  find("sidebar").classList.toggle("open", open);
  find("backdrop").hidden = !open;
  find("open-menu").setAttribute("aria-expanded", String(open));
}

find("open-menu").addEventListener("click", () => {
  menu(true);
  find("close-menu").focus();
});
for (const id of ["close-menu", "backdrop"]) {
  find(id).addEventListener("click", () => {
    menu(false);
    find("open-menu").focus();
  });
}
find("skip").addEventListener("click", () => (place().view === "chat" ? chat : compare).focus());
find("new-chat").addEventListener("click", () => place().id === null && show());
find("sidebar").addEventListener("click", (event) => event.target.closest("a") && menu(false));

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (find("sidebar").classList.contains("open")) return menu(false);
  if (place().view === "chat") chat.stop();
  else compare.stopAll();
});
addEventListener("hashchange", show);
show();
