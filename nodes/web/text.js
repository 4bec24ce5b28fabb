// Shows on a node the text that its run gave: what a model is, how pictures rank, what was written
// or learnt. Without this file the text is in the run's history alone.
import { app } from "../../scripts/app.js"

const KINDS = ["ImagenModelInfo", "ImagenScore", "ImagenSaveDataset", "ImagenLearn"]
const HEIGHT = 60 // px of text that always show; the rest scrolls, or shows on a larger node

app.registerExtension({
  name: "imagen.text",
  nodeCreated(node) {
    if (!KINDS.includes(node.comfyClass)) return
    const element = document.createElement("div")
    element.className = "imagen-text"
    element.tabIndex = 0 // arrow keys scroll it
    element.style.cssText =
      "overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-size:11px;user-select:text"
    const widget = node.addDOMWidget("text", "imagen_text", element, {
      serialize: false,
      getMinHeight: () => (element.textContent ? HEIGHT : 0),
    })
    widget.serialize = false
    const executed = node.onExecuted
    node.onExecuted = function (output) {
      executed?.apply(this, arguments)
      element.textContent = (output.text ?? []).join("\n")
    }
  },
})
