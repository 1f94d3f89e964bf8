// How xterm.js styles the terminal under the page's security policy.
//
// The policy allows style sheets from files alone: what a guest may bring onto the page can then not style anything.
// xterm.js writes its colours and sizes into `<style>` elements, and colours of single characters into `style` attributes of
// `<span>`. It takes a document to make elements with (`documentOverride`), and then uses the window's own in half of the
// places, so the two ways are bent here, for this page alone: what is asked for as `<style>` fills a constructed style
// sheet, and a span takes its `style` attribute through the object model. Both are code's own doing, which the policy
// allows, and neither can be reached by text.

let isReady = false;

/** Called before the first terminal is made. */
export function allowTerminalStyles() {
  if (isReady) return;
  isReady = true;
  document.createElement = (name, options) => (String(name).toLowerCase() === "style" ? styleElement() : Document.prototype.createElement.call(document, name, options));
  HTMLSpanElement.prototype.setAttribute = function setAttribute(name, value) {
    if (name === "style") this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
}

function styleElement() {
  // Even an empty `<style>` is one that the policy refuses. What stands in for it shows nothing.
  const element = Document.prototype.createElement.call(document, "template");
  const sheet = new CSSStyleSheet();
  let text = "";
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  Object.defineProperty(element, "textContent", {
    get: () => text,
    set: (value) => {
      text = value;
      sheet.replaceSync(value);
    },
  });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}
