// Imagen Direction's pad: a plane of two directions. Drag, or use the arrow keys; it writes into the
// node's two strengths and keeps nothing itself. Without this file they are typed.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"
import { addElement } from "./element.js"
import { ownerOf } from "./graph.js"

const REACH = 3 // strengths from -REACH to REACH; the widgets take more
const STEP = 0.1
const LARGE_STEP = 0.5
const SIZE = 140 // px
const RUN_MS = 150 // while dragging, how often "Run (On Change)" hears of it
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }
const AXES = [
  { strength: "strength", direction: "direction", attribute: "attribute" },
  {
    strength: "second_strength",
    direction: "second_direction",
    attribute: "second_attribute",
  },
]

const held = (value, reach) => Math.max(-reach, Math.min(reach, value))
const rounded = (value) => Math.round(value / STEP) / Math.round(1 / STEP)

/** "age", or "direction 2" where no attribute is chosen; "linked" where a link gives the strength. */
function nameOf(node, axis) {
  if (!ownerOf(node, axis.strength)) return "linked"
  const attribute = ownerOf(node, axis.attribute)?.value
  if (attribute && attribute !== "by number") return attribute
  return `direction ${ownerOf(node, axis.direction)?.value ?? "?"}`
}

function part(className, style) {
  const element = document.createElement("div")
  element.className = className
  element.style.cssText = style
  return element
}

function plane() {
  const box = part("imagen-pad-box", "display:flex;align-items:center;justify-content:center")
  const square = part(
    "imagen-pad",
    `position:relative;flex:none;width:${SIZE}px;height:${SIZE}px;box-sizing:border-box;` +
      "border-radius:6px;cursor:crosshair;touch-action:none;border:1px solid #777;" +
      "font-size:10px;line-height:1.2;background:" +
      "linear-gradient(#7774,#7774) 50% 0/1px 100% no-repeat," +
      "linear-gradient(#7774,#7774) 0 50%/100% 1px no-repeat",
  )
  square.tabIndex = 0
  square.setAttribute("role", "application")
  square.setAttribute("aria-label", "strengths of two directions: drag, or press arrow keys")
  const label = "position:absolute;pointer-events:none;opacity:.7;white-space:nowrap;"
  const names = [
    part("imagen-pad-across", `${label}right:3px;top:calc(50% + 2px)`),
    part("imagen-pad-up", `${label}left:calc(50% + 3px);top:2px`),
  ]
  const dot = part(
    "imagen-pad-dot",
    "position:absolute;width:12px;height:12px;margin:-6px;border-radius:50%;" +
      "background:#4a9eff;pointer-events:none",
  )
  square.append(...names, dot)
  box.append(square)
  return { box, square, dot, names }
}

app.registerExtension({
  name: "imagen.pad",
  nodeCreated(node) {
    if (node.comfyClass !== "ImagenDirection") return
    const { box, square, dot, names } = plane()
    const strengths = () => AXES.map((axis) => ownerOf(node, axis.strength))

    const show = () => {
      const [across, up] = strengths().map((widget) => held((widget?.value ?? 0) / REACH, 1))
      dot.style.left = `${(across + 1) * 50}%`
      dot.style.top = `${(1 - up) * 50}%`
      AXES.forEach((axis, i) => {
        const name = `${nameOf(node, axis)} ${"→↑"[i]}`
        if (names[i].textContent !== name) names[i].textContent = name
      })
    }
    /** Set strengths; undefined leaves one as it is. */
    const move = (...wanted) => {
      strengths().forEach((widget, i) => {
        if (!widget || wanted[i] === undefined) return
        const { min = -REACH, max = REACH } = widget.options ?? {}
        const value = rounded(Math.max(min, Math.min(max, wanted[i])))
        if (widget.value === value) return
        widget.value = value
        widget.callback?.(value)
      })
      show()
      node.graph?.setDirtyCanvas(true, true)
    }

    // The frontend keeps as one step for undo what happens between these two.
    const begin = () => app.canvas.emitBeforeChange()
    const end = () => app.canvas.emitAfterChange()
    const tell = () => (begin(), end())

    square.onpointerdown = (down) => {
      if (down.button !== 0) return
      square.focus()
      let ranAt = performance.now()
      const follow = (event) => {
        const area = square.getBoundingClientRect()
        const x = ((event.clientX - area.left) / area.width) * 2 - 1
        const y = 1 - ((event.clientY - area.top) / area.height) * 2
        move(held(x, 1) * REACH, held(y, 1) * REACH)
        if (performance.now() - ranAt < RUN_MS) return
        ranAt = performance.now()
        for (const name of ["graphChanged", "autoQueueGraphChanged"]) api.dispatchCustomEvent(name)
      }
      // At the window, so that a drag ends wherever it ends and whatever becomes of the pad.
      const drop = () => {
        window.removeEventListener("pointermove", follow, true)
        window.removeEventListener("pointerup", drop, true)
        window.removeEventListener("pointercancel", drop, true)
        end()
      }
      begin()
      window.addEventListener("pointermove", follow, true)
      window.addEventListener("pointerup", drop, true)
      window.addEventListener("pointercancel", drop, true)
      follow(down)
    }
    square.onkeydown = (event) => {
      const way = KEYS[event.key]
      if (!way && event.key !== "Home") return
      event.preventDefault()
      event.stopPropagation()
      if (!way) return move(0, 0)
      const step = event.shiftKey ? LARGE_STEP : STEP
      move(
        ...strengths().map((widget, i) => (way[i] && widget ? widget.value + way[i] * step : undefined)),
      )
    }
    square.onkeyup = (event) => {
      if (event.key in KEYS || event.key === "Home") tell()
    }

    addElement(node, "pad", box, show).setHeight(SIZE + 10)
  },
})
