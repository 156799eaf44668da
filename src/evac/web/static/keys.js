// Shortcuts. Each one only follows a link that the page has, so everything works without this script.
// The letters after g are in data-keys of the menu; the page /keys lists them all.
"use strict";
(() => {
  let waiting = 0;
  const written = (target) => target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  const pairs = () => {
    const words = (document.getElementById("nav")?.dataset.keys || "").split(" ");
    return Object.fromEntries(words.map((word) => [word[0], word.slice(2)]));
  };
  const first = (selector) => [...document.querySelectorAll(selector)].find((one) => one.checkVisibility());
  const follow = (event, link) => {
    if (!link) return;
    event.preventDefault();
    link.click();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || written(event.target)) return;
    if (waiting && Date.now() - waiting < 1500) {
      waiting = 0;
      const path = pairs()[event.key];
      if (path) {
        event.preventDefault();
        location.assign(path);
      }
      return;
    }
    waiting = 0;
    if (event.key === "g") waiting = Date.now();
    else if (event.key === "?") follow(event, document.querySelector('a[href="/keys"]'));
    else if (event.key === "a") follow(event, first('a.primary[href*="/ask?verb=approve"], #bar a.primary'));
    else if (event.key === "u") follow(event, first('a[href*="/write?kind=update"]'));
    else if (event.key === "m") follow(event, first("details.menu > summary"));
  });
})();
