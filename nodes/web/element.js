// An HTML element as a widget of a node, in the classic renderer and in Nodes 2.0.
//
// The frontend makes a node anew at every undo, tab switch and reload, takes its element away and
// puts it back, and each version tells of it in another way. So such an element keeps nothing of
// its own: while it is on screen, it looks every LOOK_MS at what it shows.
import { app } from "../../scripts/app.js"

const LOOK_MS = 100
const CLASS = "imagen-widget"

/** @type {Set<WeakRef<{ element: HTMLElement, look: () => void }>>} */
const widgets = new Set() // weak, because nodes go without a word
let made = 0

/**
 * Add an element below the widgets of a node. It is not saved with the node.
 *
 * @param {any} node
 * @param {string} name of the widget
 * @param {HTMLElement} element fills the width; of more than its height, it scrolls
 * @param {() => void} show makes the element show what the node has now; should be cheap
 * @returns {{ setHeight: (height: number) => void }} in px; 0 hides it
 */
export function addElement(node, name, element, show) {
  let height = 0
  element.classList.add(CLASS)
  // Content must not make a node of Nodes 2.0 taller: only setHeight and the user do.
  element.style.cssText += ";contain:size;overflow:auto;overscroll-behavior:contain;box-sizing:border-box"
  // Nodes 2.0 takes up another element only for a widget of another type.
  const widget = node.addDOMWidget(name, `imagen_${name}_${made++}`, element, {
    serialize: false,
    hideInPanel: true, // the panel would take the element away from the node
    getMinHeight: () => height && height + 2 * (widget.margin ?? 0),
    getMaxHeight: () => (height ? undefined : 0),
  })
  widget.serialize = false
  widget.hidden = true
  widget.look = show
  widgets.add(new WeakRef(widget))
  return {
    setHeight(wanted) {
      if (height === wanted) return
      height = wanted
      element.style.minHeight = `${height}px`
      widget.hidden = !height
      node.graph?.setDirtyCanvas(true, true)
    },
  }
}

setInterval(() => {
  for (const reference of widgets) {
    const widget = reference.deref()
    if (!widget) widgets.delete(reference)
    else if (widget.element.isConnected || widget.hidden) widget.look()
  }
}, LOOK_MS)

// The wheel scrolls such an element and does not zoom the canvas below it.
window.addEventListener(
  "wheel",
  (event) => {
    const over = event.target instanceof Element && event.target.closest(`.${CLASS}`)
    if (over && !event.ctrlKey && !event.metaKey) event.stopPropagation()
  },
  { capture: true },
)
