const main = document.querySelector("main");
const live = document.querySelector("#live");
let source;
function open() {
  source = new EventSource("events");
  source.addEventListener("page", (event) => {
    main.innerHTML = event.data;
    main.classList.remove("old");
    live.textContent = "live";
  });
  source.onerror = () => {
    live.textContent = "no answer, trying again";
    // What is shown was true a while ago.
    main.classList.add("old");
    const badge = main.querySelector(".badge");
    if (badge) {
      badge.className = "badge";
      badge.textContent = "no answer";
    }
  };
}
document.addEventListener("visibilitychange", () => {
  source.close();
  if (!document.hidden) open();
});
open();
