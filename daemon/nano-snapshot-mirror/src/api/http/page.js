const main = document.querySelector("main");
const live = document.querySelector("#live");
let source;
let retry;
function open() {
  clearTimeout(retry);
  source = new EventSource("events");
  source.addEventListener("page", (event) => {
    main.innerHTML = event.data;
    main.classList.remove("old");
    live.textContent = "live";
  });
  source.onerror = () => {
    live.textContent = "no answer, trying again";
    // The page shows old values.
    main.classList.add("old");
    const badge = main.querySelector(".badge");
    if (badge) {
      badge.className = "badge";
      badge.textContent = "no answer";
    }
    // After an answer such as 503 the browser does not connect again by itself.
    if (source.readyState === EventSource.CLOSED) retry = setTimeout(open, 30000);
  };
}
document.addEventListener("visibilitychange", () => {
  source.close();
  clearTimeout(retry);
  if (!document.hidden) open();
});
open();
