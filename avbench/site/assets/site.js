"use strict";
// Classic script, no inline code: works from file:// and under the page's content security policy.
(function () {
  var root = document.documentElement;
  var THEMES = ["auto", "light", "dark"];

  function stored() {
    try { return localStorage.getItem("avbench-theme"); } catch (error) { return null; }
  }

  function setTheme(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    try { localStorage.setItem("avbench-theme", theme); } catch (error) { /* private mode */ }
  }

  function themeSwitch() {
    var button = document.createElement("button");
    button.type = "button";
    button.className = "theme";
    function label() {
      var now = root.dataset.theme || "auto";
      button.textContent = { auto: "◐", light: "☀", dark: "☾" }[now];
      button.setAttribute("aria-label", "Color theme: " + now);
      button.title = "Color theme: " + now;
    }
    button.addEventListener("click", function () {
      var now = root.dataset.theme || "auto";
      setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
      label();
    });
    label();
    document.querySelector("header nav").append(button);
  }

  setTheme(stored() || "auto");
  document.addEventListener("DOMContentLoaded", function () {
    themeSwitch();
  });
})();
