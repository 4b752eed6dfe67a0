"use strict";
// Lays two of the pictures over each other; both are taken from their cards, so that each is in the page once.
(() => {
  const stage = document.getElementById("stage");
  if (stage) {
    const pictures = [...document.querySelectorAll(".picture")];
    const byId = (id) => document.getElementById(id);
    const show = () => {
      byId("below").src = pictures[byId("choose-below").value].src;
      byId("above").src = pictures[byId("choose-above").value].src;
      byId("above").style.opacity = byId("share").value / 100;
      for (const mark of stage.querySelectorAll(".eye")) mark.hidden = !byId("eyes").checked;
    };
    for (const id of ["choose-below", "choose-above", "share", "eyes"]) byId(id).addEventListener("input", show);
    show();
  }
  document.documentElement.dataset.ready = "yes";
})();
