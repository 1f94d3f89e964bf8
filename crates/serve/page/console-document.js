// A document for xterm.js that keeps to the page's security policy.
//
// The policy allows style sheets from files alone: what a guest may bring onto the page can then not style anything.
// xterm.js writes its colours and sizes into `<style>` elements, and 24-bit colours into `style` attributes. It takes a
// document to make its elements with (`documentOverride`), so it gets one where what is asked for as
// `<style>` fills a constructed style sheet, and whose elements take the `style` attribute through the object model. Both are code's own doing, which the
// policy allows, and neither can be reached by text.

function styleElement(document) {
  // Even an empty `<style>` is one that the policy refuses. What stands in for it shows nothing.
  const element = document.createElement("template");
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

function styledElement(element) {
  element.setAttribute = (name, value) => {
    if (name === "style") element.style.cssText = value;
    else Element.prototype.setAttribute.call(element, name, value);
  };
  return element;
}

/** `document` for all purposes, but for how the elements it makes take their style. */
export function strictDocument(document) {
  const createElement = (name, options) => {
    if (name.toLowerCase() === "style") return styleElement(document);
    return styledElement(document.createElement(name, options));
  };
  return new Proxy(document, {
    get(target, key) {
      if (key === "createElement") return createElement;
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
    set: (target, key, value) => Reflect.set(target, key, value, target),
  });
}
