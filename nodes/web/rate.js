// Imagen Rate's buttons, a group for each picture of the preview: click or press keys to rate, click
// again to take it back. A button lights up once the server has the rating on its disk. Without this
// file the node works by its text input.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

const VERDICTS = [
  { mark: "▲", key: "ArrowUp", title: "thumb up (arrow up)", clicks: (i) => ({ up: [i] }) },
  { mark: "▼", key: "ArrowDown", title: "thumb down (arrow down)", clicks: (i) => ({ down: [i] }) },
  { mark: "★", key: "b", title: "the best of all (b)", clicks: (i) => ({ best: i }) },
]

async function post(path, body) {
  const response = await api.fetchApi(path, { method: "POST", body: JSON.stringify(body) })
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.error.message)
  return answer
}

function button(verdict, state) {
  const element = document.createElement("button")
  element.textContent = verdict.mark
  element.title = verdict.title
  element.style.cssText = "flex:1;border:0;border-radius:4px;padding:2px;cursor:pointer;opacity:.5"
  element.setAttribute("aria-pressed", "false")
  element.onclick = async () => {
    try {
      const answer = state.ids
        ? await post("/imagen/forget", { ids: state.ids })
        : await post("/imagen/rate", { batch: state.batch, clicks: verdict.clicks(state.index) })
      state.ids = answer.ids.length ? answer.ids : null
      element.setAttribute("aria-pressed", String(Boolean(state.ids)))
      element.style.opacity = state.ids ? "1" : ".5"
      state.say(answer.text)
    } catch (error) {
      state.say(error.message)
    }
  }
  return element
}

function tile(index, batch, say) {
  const element = document.createElement("div")
  element.tabIndex = 0
  element.className = "imagen-tile"
  element.setAttribute("aria-label", `picture ${index}`)
  element.style.cssText = "display:flex;align-items:center;gap:2px;font-size:12px"
  const buttons = VERDICTS.map((verdict) => button(verdict, { index, batch, say, ids: null }))
  element.append(`${index}`, ...buttons)
  element.onkeydown = (event) => {
    const at = VERDICTS.findIndex((verdict) => verdict.key === event.key)
    if (at < 0) return
    event.preventDefault()
    event.stopPropagation()
    buttons[at].click()
  }
  return element
}

app.registerExtension({
  name: "imagen.rate",
  nodeCreated(node) {
    if (node.comfyClass !== "ImagenRate") return
    const gallery = document.createElement("div")
    const grid = document.createElement("div")
    grid.style.cssText = "display:grid;grid-template-columns:repeat(4,1fr);gap:6px"
    const line = document.createElement("div")
    line.style.cssText = "font-size:11px;padding-top:4px"
    gallery.style.cssText = "overflow:auto"
    gallery.append(grid, line)
    const widget = node.addDOMWidget("gallery", "imagen_gallery", gallery, {
      serialize: false,
      getMinHeight: () => 90,
    })
    widget.serialize = false
    const executed = node.onExecuted
    node.onExecuted = function (output) {
      executed?.apply(this, arguments)
      const say = (text) => (line.textContent = text)
      const batch = output.imagen_batch?.[0]
      grid.replaceChildren(
        ...(output.images ?? []).map((_, index) => tile(index, batch, say)),
      )
      say(output.text?.[0] ?? "")
    }
  },
})
