// Lists a model or an adapter as soon as a run has written it, as pressing R does.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

api.addEventListener("imagen.new_files", () => app.refreshComboInNodes())
