// Shows on a node the text that its run gave: how a prompt was read, what a model is, how pictures
// rank, what was written or learnt. Without this file the text is in the run's history alone.
import { app } from "../../scripts/app.js"
import { addElement } from "./element.js"
import { withOutput } from "./graph.js"

const KINDS = [
  "ImagenEncodeText",
  "ImagenModelInfo",
  "ImagenScore",
  "ImagenSaveDataset",
  "ImagenLearn",
  "ImagenTrain",
]
const LINE = 15 // px
const MAX_LINES = 10 // that always show; the rest scrolls, or shows on a larger node

app.registerExtension({
  name: "imagen.text",
  nodeCreated(node) {
    if (!KINDS.includes(node.comfyClass)) return
    const element = document.createElement("div")
    element.className = "imagen-text"
    element.tabIndex = 0 // arrow keys scroll it
    element.style.cssText =
      `font-size:11px;line-height:${LINE}px;white-space:pre-wrap;overflow-wrap:anywhere;` +
      "user-select:text"
    const show = withOutput(node, (output) => {
      const text = output.text?.join("\n") ?? ""
      element.textContent = text
      widget.setHeight(text ? LINE * Math.min(MAX_LINES, text.split("\n").length) : 0)
    })
    const widget = addElement(node, "text", element, show)
  },
})
