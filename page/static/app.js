// The page: who is let in, which view is shown, and the beat by which it is kept up to date.

import { call, hasToken, Refused, remember } from "./api.js";
import { h, labelled, say } from "./dom.js";
import { confirmed } from "./confirm.js";
import { ConfigurationView } from "./configuration.js";
import { FleetView } from "./fleet.js";
import { LearningView } from "./learning.js";
import { ModelsView } from "./models.js";
import { RequestsView, RequestView } from "./requests.js";
import { TrafficView } from "./traffic.js";
import { enumInWords } from "./words.js";

const BEAT_MS = 1000;

const VIEWS = {
  fleet: FleetView,
  traffic: TrafficView,
  requests: RequestsView,
  learning: LearningView,
  models: ModelsView,
  configuration: ConfigurationView,
};

const element = (id) => document.getElementById(id);

/** What views share: the last answer of Show, and a voice. */
const house = {
  shown: null,
  /** Say what was done; one sentence at a time, for those who listen, too. */
  tell(text) {
    say(element("told"), text);
  },
  /** Do something that may be refused, and say why if it is; then look again. */
  async act(what) {
    try {
      await what();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      house.tell(`Refused: ${error.message}`);
      if (isClosed(error)) askForToken(error.message);
    }
    await beat({ even: true });
  },
};

let view = null;
let paused = false;
let beating = Promise.resolve();

/** Whether nobody is let in without another token. */
function isClosed(error) {
  return error.status === 401 || error.status === 403;
}

/** The view that the address names: "#requests/ID" is one request. */
function opened() {
  const [name, id] = location.hash.slice(1).split("/");
  if (name === "requests" && id) return new RequestView(house, decoded(id));
  return new (VIEWS[name] ?? FleetView)(house);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function show() {
  view?.close();
  view = opened();
  element("main").replaceChildren(view.element);
  const here = location.hash.slice(1).split("/")[0] || "fleet";
  for (const link of element("views").children) {
    if (link.hash === `#${here}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} – Forerun`;
  say(element("told"), "");
  return beat({ even: true });
}

/** The same for those who have just gone there: their keyboard goes with them. */
async function showFromItsTop() {
  await show();
  if (view) element("main").querySelector("h2").focus();
}

/** Bring everything up to date. Beats never overtake each other; `even`: also while the page is paused. Nobody is asked
 * anything while a token is waited for. */
function beat({ even = false } = {}) {
  beating = beating.then(async () => {
    if (!view || ((paused || document.hidden) && !even)) return;
    try {
      house.shown = await call("RouterService/Show");
      showState(house.shown);
      await view.update();
      problem("");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (isClosed(error)) askForToken(hasToken() ? error.message : "");
      else problem(error.status === 404 ? error.message : `${error.message}. What you see may be old.`);
    }
  });
  return beating;
}

function problem(text) {
  const told = element("problem");
  say(told, text);
  told.hidden = !text;
}

function showState(shown) {
  const engaged = shown.kill_switch;
  const mode = enumInWords(shown.mode, "ROUTER_MODE_");
  say(element("state"), engaged ? "Kill switch engaged: nothing is speculated" : `Policy ${shown.policy}, mode ${mode}`);
  element("state").classList.toggle("wrong", engaged);
  say(element("kill"), engaged ? "Release the kill switch" : "Engage the kill switch");
  element("actions").hidden = element("views").hidden = false;
  element("leave").hidden = !hasToken();
}

async function turnKillSwitch() {
  const engage = !house.shown.kill_switch;
  const question = engage
    ? "Stop all speculation, of running requests, too? They go on, only slower; no text changes."
    : "Let the policies speculate again?";
  if (!(await confirmed(question, engage ? "Engage" : "Release"))) return;
  await house.act(async () => {
    const now = await call("RouterService/SetKillSwitch", { engaged: engage });
    if (now.engaged && !engage) house.tell("Still engaged: the configuration says so; change router.kill_switch there.");
    else house.tell(now.engaged ? "The kill switch is engaged." : "The kill switch is released.");
  });
}

/** Nothing but a question for the token; what was seen before is gone. */
function askForToken(why) {
  remember("");
  view?.close();
  view = null;
  element("actions").hidden = element("views").hidden = true;
  say(element("state"), "");
  problem("");
  const given = h("input", { type: "password", autocomplete: "off", required: true, size: 56 });
  const form = h(
    "form",
    {
      class: "enter",
      onsubmit: (event) => {
        event.preventDefault();
        remember(given.value.trim());
        showFromItsTop();
      },
    },
    h("h2", {}, "Who are you?"),
    h("p", {}, "This controller asks for a token with the role operate. It is kept until you leave this page."),
    labelled("Token", given),
    h("button", { type: "submit" }, "Enter"),
    h("p", { role: "alert", class: "wrong" }, why),
  );
  element("main").replaceChildren(form);
  document.title = "Forerun";
  given.focus();
}

element("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.currentTarget.setAttribute("aria-pressed", String(paused));
  beat();
});
element("kill").addEventListener("click", turnKillSwitch);
element("leave").addEventListener("click", () => askForToken(""));
element("skip").addEventListener("click", (event) => {
  // The address names a view, so the link must not change it.
  event.preventDefault();
  element("main").focus();
});
window.addEventListener("hashchange", () => {
  if (view) showFromItsTop();
});

await show();
for (;;) {
  await new Promise((wake) => setTimeout(wake, BEAT_MS));
  await beat();
}
