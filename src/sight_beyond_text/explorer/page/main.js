// Puts the page together.

const VIEWS = { runs: "Runs", items: "Items" };

draw = () => {
  const view = byId("view");
  const chosen = VIEWS[state.view] ? state.view : "runs";
  fill(byId("nav"), Object.entries(VIEWS).map(([key, label]) => make("a", {
    href: address({ view: key }), id: `view-${key}`, "aria-current": key === chosen ? "page" : null,
    onclick: (event) => { event.preventDefault(); go({ view: key }); byId(`view-${key}`).focus(); },
  }, label)));
  if (chosen === "runs") {
    asking++;
    drawGrid(view);
  } else {
    drawItems(view);
  }
};

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
byId("title").textContent = `Explorer: ${index.study}`;
document.title = `Explorer: ${index.study}`;
draw();
