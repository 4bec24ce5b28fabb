// Imagen Rate's gallery: each picture of the batch with its buttons; click or press keys to rate,
// click again to take it back. A button lights up once the server has the rating on its disk: after
// each click, run and reload it is the server that says what is lit.
// Without this file the node works by its text input.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"
import { addElement } from "./element.js"
import { withOutput } from "./graph.js"

// Shapes are drawn, since not every font has them.
const VERDICTS = [
  { name: "up", shape: "12,4 22,20 2,20", key: "ArrowUp", title: "thumb up (arrow up)" },
  { name: "down", shape: "2,4 22,4 12,20", key: "ArrowDown", title: "thumb down (arrow down)" },
  {
    name: "best",
    shape: "12,1 15,9 23,9 17,14 19,22 12,17 5,22 7,14 1,9 9,9",
    key: "b",
    title: "the best of all (b)",
  },
]
const COLUMNS = 4
const HEIGHT = 270 // px: two rows of four, and the line above; more rows scroll

async function post(path, body) {
  const response = await api.fetchApi(path, { method: "POST", body: JSON.stringify(body) })
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.error.message)
  return answer
}

/** A batch of pictures on the page. `verdicts[i][name]` are the ids of the ratings behind a button. */
class Batch {
  constructor(id, images, say) {
    this.id = id
    this.say = say
    this.verdicts = []
    this.tiles = images.map((image, index) => tile(image, index, (name) => this.click(index, name)))
    this.told = Promise.resolve() // when the server has answered to all before
  }

  ask() {
    this.tell(() => post("/imagen/ratings", { batch: this.id }))
  }

  /** Rate, in place of the ratings that this one contradicts; or take a rating back. */
  click(index, name) {
    this.tell(() => {
      const own = this.verdicts[index]
      if (!own) return post("/imagen/ratings", { batch: this.id }) // it did not answer before
      if (own[name].length) return post("/imagen/forget", { batch: this.id, ids: own[name] })
      const stars = this.verdicts.flatMap((each) => each.best)
      const [clicks, instead_of] = {
        up: [{ up: [index] }, own.down],
        down: [{ down: [index] }, own.up],
        best: [{ best: index }, stars],
      }[name]
      return post("/imagen/rate", { batch: this.id, clicks, instead_of })
    })
  }

  /** One request after the other, each made from what the server answered before. */
  tell(request) {
    this.told = this.told.then(request).then(
      (answer) => {
        this.verdicts = answer.verdicts
        this.tiles.forEach((each, index) => light(each, this.verdicts[index]))
        this.say(this, answer.text)
      },
      (error) => this.say(this, error.message),
    )
  }
}

function light(element, verdict) {
  for (const button of element.querySelectorAll("button")) {
    const lit = verdict[button.dataset.verdict].length > 0
    button.setAttribute("aria-pressed", String(lit))
    button.style.opacity = lit ? "1" : ".5"
  }
}

function button({ name, shape, title }, click) {
  const element = document.createElement("button")
  element.innerHTML =
    `<svg viewBox="0 0 24 24" width="12" height="12" fill="currentColor" aria-hidden="true">` +
    `<polygon points="${shape}"/></svg>`
  element.dataset.verdict = name
  element.title = title
  element.setAttribute("aria-label", title)
  element.style.cssText =
    "flex:1;border:0;border-radius:4px;padding:3px 0;cursor:pointer;line-height:0"
  element.onclick = () => click(name)
  return element
}

function tile(image, index, click) {
  const element = document.createElement("div")
  element.tabIndex = 0
  element.className = "imagen-tile"
  element.setAttribute("aria-label", `picture ${index}`)
  const picture = document.createElement("img")
  picture.src = api.apiURL(`/view?${new URLSearchParams(image)}`)
  picture.alt = picture.title = `picture ${index}`
  picture.draggable = false // dropped on the canvas it would open its workflow
  picture.style.cssText =
    "display:block;width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated"
  const row = document.createElement("div")
  row.style.cssText = "display:flex;align-items:center;gap:2px;font-size:11px;padding-top:2px"
  row.append(`${index}`, ...VERDICTS.map((verdict) => button(verdict, click)))
  element.append(picture, row)
  element.onkeydown = (event) => {
    const verdict = VERDICTS.find((each) => each.key === event.key)
    if (!verdict) return
    event.preventDefault()
    event.stopPropagation()
    click(verdict.name)
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
    gallery.append(line, grid)

    // The pictures are in the gallery; the frontend need not show them once more.
    node.hideOutputImages = true // in Nodes 2.0
    node.onDrawBackground = () => {} // in the classic renderer

    let batch = null // the one on the page
    const say = (from, text) => {
      if (from === batch) line.textContent = text
    }
    const show = withOutput(node, ({ imagen_batch: ids, images }) => {
      if (!ids) return
      if (ids[0] !== batch?.id) {
        batch = new Batch(ids[0], images, say)
        line.textContent = ""
        grid.replaceChildren(...batch.tiles)
        widget.setHeight(HEIGHT)
      }
      batch.ask()
    })
    const widget = addElement(node, "gallery", gallery, show)
  },
})
