// Imagen Rate's gallery: each picture of the batch with its buttons; click or press keys to rate,
// click again to take it back. A button lights up once the server has the rating on its disk.
// Without this file the node works by its text input.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

// Shapes are drawn, since not every font has them. A thumb takes back its rival.
const VERDICTS = [
  {
    shape: "12,4 22,20 2,20",
    rival: 1,
    key: "ArrowUp",
    title: "thumb up (arrow up)",
    clicks: (i) => ({ up: [i] }),
  },
  {
    shape: "2,4 22,4 12,20",
    rival: 0,
    key: "ArrowDown",
    title: "thumb down (arrow down)",
    clicks: (i) => ({ down: [i] }),
  },
  {
    shape: "12,1 15,9 23,9 17,14 19,22 12,17 5,22 7,14 1,9 9,9",
    key: "b",
    title: "the best of all (b)",
    clicks: (i) => ({ best: i }),
  },
]
const COLUMNS = 4
const HEIGHT = 290 // px: two rows of four, and the line below

async function post(path, body) {
  const response = await api.fetchApi(path, { method: "POST", body: JSON.stringify(body) })
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.error.message)
  return answer
}

function button(verdict, tile) {
  const element = document.createElement("button")
  element.innerHTML =
    `<svg viewBox="0 0 24 24" width="12" height="12" fill="currentColor" aria-hidden="true">` +
    `<polygon points="${verdict.shape}"/></svg>`
  element.title = verdict.title
  element.setAttribute("aria-label", verdict.title)
  element.style.cssText =
    "flex:1;border:0;border-radius:4px;padding:3px 0;cursor:pointer;line-height:0"
  let ids = []
  const show = (kept) => {
    ids = kept
    element.setAttribute("aria-pressed", String(ids.length > 0))
    element.style.opacity = ids.length ? "1" : ".5"
  }
  element.takeBack = async () => {
    if (!ids.length) return
    const answer = await post("/imagen/forget", { ids })
    show(answer.ids)
    tile.say(answer.text)
  }
  element.onclick = async () => {
    try {
      if (ids.length) return await element.takeBack()
      await tile.buttons[verdict.rival]?.takeBack()
      const clicks = verdict.clicks(tile.index)
      const answer = await post("/imagen/rate", { batch: tile.batch, clicks })
      show(answer.ids)
      tile.say(answer.text)
    } catch (error) {
      tile.say(error.message)
    }
  }
  show([])
  return element
}

function tile(image, index, batch, say) {
  const element = document.createElement("div")
  element.tabIndex = 0
  element.className = "imagen-tile"
  element.setAttribute("aria-label", `picture ${index}`)
  const picture = document.createElement("img")
  picture.src = api.apiURL(`/view?${new URLSearchParams(image)}`)
  picture.alt = picture.title = `picture ${index}`
  picture.style.cssText =
    "display:block;width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated"
  const row = document.createElement("div")
  row.style.cssText = "display:flex;align-items:center;gap:2px;font-size:11px;padding-top:2px"
  const state = { index, batch, say, buttons: [] }
  state.buttons.push(...VERDICTS.map((verdict) => button(verdict, state)))
  row.append(`${index}`, ...state.buttons)
  element.append(picture, row)
  element.onkeydown = (event) => {
    const at = VERDICTS.findIndex((verdict) => verdict.key === event.key)
    if (at < 0) return
    event.preventDefault()
    event.stopPropagation()
    state.buttons[at].click()
  }
  return element
}

app.registerExtension({
  name: "imagen.rate",
  nodeCreated(node) {
    if (node.comfyClass !== "ImagenRate") return
    const gallery = document.createElement("div")
    const line = document.createElement("div")
    line.style.cssText = "font-size:11px;padding-bottom:4px"
    const grid = document.createElement("div")
    grid.style.cssText = `display:grid;grid-template-columns:repeat(${COLUMNS},1fr);gap:6px`
    gallery.style.cssText = "overflow:auto"
    gallery.append(line, grid)
    const widget = node.addDOMWidget("gallery", "imagen_gallery", gallery, {
      serialize: false,
      getMinHeight: () => (grid.childElementCount ? HEIGHT : 24),
    })
    widget.serialize = false
    const say = (text) => (line.textContent = text)
    const shown = new Map() // batch -> its tiles, which know what was clicked
    const executed = node.onExecuted
    node.onExecuted = function (output) {
      executed?.apply(this, arguments)
      const batch = output.imagen_batch?.[0]
      if (!shown.has(batch)) {
        const images = output.images ?? []
        shown.set(batch, images.map((image, index) => tile(image, index, batch, say)))
      }
      grid.replaceChildren(...shown.get(batch))
      say(output.text?.[0] ?? "")
    }
  },
})
