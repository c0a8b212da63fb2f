// Runs in the page before its own scripts, and holds it to a law: what a user is shown changes only in the task of what
// the user does, or while the view says that it is busy, and it becomes busy only in the task of what the user does.
// So whoever reads while the view is not busy reads what was asked last, all of it, however slow the machine is.
// What breaks the law is an error in the console.

{
  const ACTS = ["change", "click", "drop", "focusin", "input", "keydown", "paste", "pointerleave", "pointerover", "wheel"];
  const BY_THE_CLOCK = "#kept-until, #forget"; // what is kept expires while nobody does anything
  const found = (id) => document.getElementById(id);
  const complain = (what) => console.error(`Behind the user's back: ${what}.`);
  const told = new MessageChannel();
  let isActing = false;
  const rest = () => { isActing = false; };

  for (const type of ACTS) {
    addEventListener(type, () => {
      isActing = true;
      requestAnimationFrame(rest); // before those that the page asks for, in what follows
      told.port2.postMessage(null); // and the next task is none of the user's either
    }, { capture: true, passive: true });
  }
  told.port1.onmessage = rest;

  const isShown = () => found("result")?.hidden === false;
  const isBusy = () => found("view").hasAttribute("aria-busy");
  const changed = ({ target }) => (target instanceof Element ? target : target.parentElement);
  const name = (element) => element.closest("[id]").id;

  /** Whether a user can see a change. Where they cannot, nothing is read either. */
  function isSeen(change) {
    const { type, attributeName, oldValue } = change;
    const element = changed(change);
    const part = element?.closest("#view, #controls, #answer");
    if (!part || element.closest(BY_THE_CLOCK)) return false;
    if (type === "attributes" && (element === part || element.getAttribute(attributeName) === oldValue)) return false;
    return (element.closest("select") ?? element).checkVisibility({ visibilityProperty: true });
  }

  new MutationObserver((changes) => {
    if (isActing || !isShown()) return;
    const turns = changes.filter(({ target, attributeName }) => target.id === "view" && attributeName === "aria-busy");
    const wasBusy = turns.length ? turns[0].oldValue !== null : isBusy();
    if (wasBusy) return;
    if (turns.length) complain("the view became busy");
    for (const change of changes.filter(isSeen)) complain(`#${name(changed(change))} changed`);
  }).observe(document, { subtree: true, childList: true, characterData: true, attributes: true, attributeOldValue: true });

  for (const method of ["clearRect", "putImageData"]) {
    const draw = CanvasRenderingContext2D.prototype[method];
    CanvasRenderingContext2D.prototype[method] = function (...given) {
      if (!isActing && this.canvas.isConnected && isShown() && !isBusy()) complain(`#${name(this.canvas)} was painted`);
      return draw.apply(this, given);
    };
  }
}
