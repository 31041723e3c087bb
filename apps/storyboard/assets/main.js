// The frame: which screen is shown, what of it was moved, the URL, keys and theme.

const SCREENS = [hook, game, fresh, watch, trick, open, used, broken, depth, end];
const NARROW = 736; // pixels; 46rem in story.css
const KEPT = "ar_interp story"; // in this tab, for the way back from another page

/** What is moved on a screen, by name: from the URL if it is valid there, else as it was left, else the default. */
function placeOf(story, screen, query) {
  const own = (story.kept[screen] ??= {});
  for (const [name, { parse, otherwise }] of Object.entries(SCREENS[screen].params)) {
    if (query && query.has(name)) own[name] = parse(query.get(name));
    own[name] ??= otherwise;
  }
  return {
    get: (name) => own[name],
    /** Another page of the explorer. */
    open: (page) => story.open(page),
    /** A width in pixels, or what there is of it: this share of the stage, all of it where the page is narrow. */
    room(width, share = 1) {
      story.sized = true;
      const narrow = story.root.clientWidth < NARROW;
      return Math.min(width, narrow ? story.room : share * story.room);
    },
    /** A value that is still being dragged. */
    move: (values) => Object.assign(own, values),
    /** A value that is in the URL from now on. */
    commit(values) { Object.assign(own, values); write(story); },
    /** The same, and the screen is built anew. */
    restart(values) { Object.assign(own, values); write(story); show(story); },
  };
}

/** The URL says where we are: a link restores it, and so does the browser's way back. */
function write(story, entry = "replaceState") {
  const query = new URLSearchParams(location.search);
  for (const name of ["no_page", "screen", ...SCREENS.flatMap((screen) => Object.keys(screen.params))]) query.delete(name);
  query.set("screen", story.screen);
  for (const [name, { otherwise, format }] of Object.entries(SCREENS[story.screen].params)) {
    const value = story.kept[story.screen]?.[name] ?? otherwise;
    if (String(value) !== String(otherwise)) query.set(name, format(value));
  }
  sessionStorage.setItem(KEPT, query.toString());
  const url = `${location.pathname}?${query}`;
  if (url !== location.pathname + location.search) history[entry](history.state, "", url);
}

/** Go where the URL says; where `kept`, and where it says nothing, to the place that was left last. */
function read(story, kept = false) {
  let query = new URLSearchParams(location.search);
  if (kept || !query.has("screen")) query = new URLSearchParams(sessionStorage.getItem(KEPT) ?? "");
  const asked = Number(query.get("screen"));
  story.screen = Number.isInteger(asked) && asked >= 0 && asked < SCREENS.length ? asked : 0;
  show(story, query);
}

function show(story, query = null) {
  const { root, screen, data } = story, chosen = SCREENS[screen];
  story.room = root.querySelector(".stage").clientWidth || Infinity;
  story.sized = false;
  const built = chosen.build(placeOf(story, screen, query), data);
  root.querySelector(".count").textContent = screen ? `${screen} of ${SCREENS.length - 1}` : "How a small transformer learns in context";
  root.querySelector("h1").textContent = chosen.title;
  root.querySelector(".question").innerHTML = built.question;
  root.querySelector(".intro").replaceChildren(...built.intro);
  root.querySelector(".stage").replaceChildren(...built.stage);
  root.querySelector(".side").replaceChildren(...built.side);
  root.querySelectorAll(".steps button").forEach((step, n) => {
    if (n === screen) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  });
  const [back, next] = root.querySelectorAll(".move button");
  back.disabled = screen === 0;
  next.disabled = screen === SCREENS.length - 1;
}

function go(story, screen) {
  if (screen < 0 || screen >= SCREENS.length || screen === story.screen) return;
  story.screen = screen;
  show(story);
  write(story, "pushState");
  const heading = story.root.querySelector("h1");
  heading.focus({ preventScroll: true });
  if (story.root.getBoundingClientRect().top < 0) story.root.scrollIntoView({ block: "start" });
}

/** Whether an element has a use of its own for the arrow keys. */
function takesArrows(node) {
  return node instanceof Element && node.closest('input, textarea, select, [role="slider"], [contenteditable]') !== null;
}

function start(parent, data) {
  const root = parent.querySelector(".story");
  const story = { root, data, screen: 0, kept: {} };
  if (data.version !== VERSION) {
    root.replaceChildren(el("p", {}, `The story needs numbers of version ${VERSION}, not ${data.version}: reload the page.`));
    return null;
  }
  root.querySelector(".steps").replaceChildren(...SCREENS.map((screen, n) =>
    el("li", {}, button(`<span>${n}</span>`, () => go(story, n), { "aria-label": `Screen ${n}: ${screen.title}`, title: screen.title }))));
  root.querySelector(".frame").hidden = false; // nothing shifts: what is seen first is complete
  const [back, next] = root.querySelectorAll(".move button");
  back.addEventListener("click", () => go(story, story.screen - 1));
  next.addEventListener("click", () => go(story, story.screen + 1));
  read(story, window[KEPT]); // a link is followed once: who comes back from another page goes on where they were
  if (window[KEPT]) write(story);
  window[KEPT] = true;
  return story;
}

/** Colours of data follow the page's background, which the visitor may switch at any time. */
function follow(root) {
  const [r, g, b] = (getComputedStyle(root).backgroundColor.match(/[\d.]+/g) ?? [255, 255, 255]).map(Number);
  root.classList.toggle("dark", 0.2126 * r + 0.7152 * g + 0.0722 * b < 128);
}

const mounted = new WeakMap(); // this runs again at every run of the script and change of theme

export default function ({ parentElement, data, setTriggerValue }) {
  if (!mounted.has(parentElement)) mounted.set(parentElement, start(parentElement, data));
  const story = mounted.get(parentElement);
  if (!story) return undefined;
  story.stop?.(); // what listened since the last time
  story.open = (page) => setTriggerValue("open", page);
  follow(story.root);
  const onKey = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !story.root.isConnected || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (!takesArrows(event.composedPath()[0])) go(story, story.screen + step);
  };
  const onBack = () => new URLSearchParams(location.search).has("screen") && read(story);
  addEventListener("keydown", onKey);
  addEventListener("popstate", onBack);
  const stage = story.root.querySelector(".stage");
  const resized = new ResizeObserver(() => {
    if (story.sized && Math.abs(stage.clientWidth - story.room) > 0.2 * story.room) show(story);
  });
  resized.observe(stage);
  story.stop = () => {
    resized.disconnect();
    removeEventListener("keydown", onKey);
    removeEventListener("popstate", onBack);
  };
  return story.stop;
}
