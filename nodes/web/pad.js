// Imagen Direction's pad: a plane of two directions. Drag, or use the arrow keys; it writes into the
// node's two strengths and keeps nothing itself. Without this file they are typed.
import { app } from "../../scripts/app.js"

const REACH = 3 // strengths from -REACH to REACH; the widgets take more
const STEP = 0.1
const LARGE_STEP = 0.5
const SIZE = 140 // px
const TELL_MS = 150 // while dragging, how often the frontend hears of it
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }

function rounded(value) {
  const held = Math.max(-REACH, Math.min(REACH, value))
  return Math.round(held / STEP) / Math.round(1 / STEP)
}

function plane() {
  const element = document.createElement("div")
  element.className = "imagen-pad"
  element.tabIndex = 0
  element.setAttribute("role", "application")
  element.setAttribute("aria-label", "strengths of two directions: drag, or press arrow keys")
  element.style.cssText =
    `position:relative;width:${SIZE}px;height:${SIZE}px;margin:auto;border-radius:6px;` +
    "cursor:crosshair;touch-action:none;border:1px solid #777;background:" +
    "linear-gradient(#7774,#7774) 50% 0/1px 100% no-repeat," +
    "linear-gradient(#7774,#7774) 0 50%/100% 1px no-repeat"
  const dot = document.createElement("div")
  dot.style.cssText =
    "position:absolute;width:12px;height:12px;margin:-6px;border-radius:50%;" +
    "background:#4a9eff;pointer-events:none"
  element.append(dot)
  return { element, dot }
}

app.registerExtension({
  name: "imagen.pad",
  nodeCreated(node) {
    if (node.comfyClass !== "ImagenDirection") return
    const [across, up] = ["strength", "second_strength"].map((name) =>
      node.widgets?.find((widget) => widget.name === name),
    )
    if (!across || !up) return
    const { element, dot } = plane()

    const show = () => {
      const place = (value) => ((value / REACH + 1) / 2) * 100
      dot.style.left = `${Math.max(0, Math.min(100, place(across.value)))}%`
      dot.style.top = `${100 - Math.max(0, Math.min(100, place(up.value)))}%`
    }
    const move = (x, y) => {
      for (const [widget, value] of [[across, rounded(x)], [up, rounded(y)]]) {
        if (widget.value === value) continue
        widget.value = value
        widget.callback?.(value)
      }
      show()
      node.graph?.setDirtyCanvas(true, true)
    }

    // A change that the frontend hears of can be undone, is kept, and runs with "Run (On Change)".
    let toldAt = 0
    const tell = () => {
      toldAt = performance.now()
      app.canvas?.emitBeforeChange?.()
      app.canvas?.emitAfterChange?.()
    }

    let dragging = false
    const follow = (event) => {
      const area = element.getBoundingClientRect()
      const x = ((event.clientX - area.left) / area.width) * 2 - 1
      const y = 1 - ((event.clientY - area.top) / area.height) * 2
      move(x * REACH, y * REACH)
      if (performance.now() - toldAt > TELL_MS) tell()
    }
    element.onpointerdown = (event) => {
      dragging = true
      element.setPointerCapture(event.pointerId)
      element.focus()
      follow(event)
    }
    element.onpointermove = (event) => dragging && follow(event)
    element.onpointerup = element.onpointercancel = () => {
      dragging = false
      tell()
    }
    element.onkeydown = (event) => {
      const way = KEYS[event.key]
      if (!way && event.key !== "Home") return
      event.preventDefault()
      event.stopPropagation()
      const step = event.shiftKey ? LARGE_STEP : STEP
      if (way) move(across.value + way[0] * step, up.value + way[1] * step)
      else move(0, 0)
      tell()
    }

    for (const widget of [across, up]) {
      const called = widget.callback
      widget.callback = function () {
        called?.apply(this, arguments)
        show()
      }
    }
    const configured = node.onConfigure
    node.onConfigure = function () {
      configured?.apply(this, arguments)
      show()
    }
    const widget = node.addDOMWidget("pad", "imagen_pad", element, {
      serialize: false,
      getMinHeight: () => SIZE + 10,
    })
    widget.serialize = false
    show()
  },
})
