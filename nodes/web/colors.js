// Colours of this pack's link types, akin to those of core's MODEL, CONDITIONING and LATENT, with
// which they do not connect. Without this file such links have the default colour.
import { app } from "../../scripts/app.js"

const COLORS = {
  IMAGEN_MODEL: "#8f7bff",
  IMAGEN_CONDITION: "#ffcf4a",
  IMAGEN_LATENT: "#ff5fa8",
}

// Nodes 2.0 reads a variable for each type; a theme that names ours overrides this rule.
const style = document.createElement("style")
const rules = Object.entries(COLORS).map(([type, color]) => `--color-datatype-${type}:${color}`)
style.textContent = `:root{${rules.join(";")}}`
document.head.append(style)

// The canvas has tables, which the frontend empties of unknown types whenever it loads a theme.
function paint() {
  for (const table of [
    globalThis.LGraphCanvas?.link_type_colors,
    app.canvas?.default_connection_color_byType,
  ]) {
    for (const type in COLORS) if (table && !table[type]) table[type] = COLORS[type]
  }
}

app.registerExtension({ name: "imagen.colors", setup: paint, afterConfigureGraph: paint })
