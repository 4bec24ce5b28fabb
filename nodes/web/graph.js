// What the frontend knows of a node: which widget gives an input its value, and what the last run
// gave. Both hold for nodes inside of subgraphs, too.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

const HISTORY = 32 // runs that are looked through after a reload

/** The node of the workflow that stands for a subgraph; undefined for none and for several. */
function hostOf(graph) {
  const root = graph.rootGraph
  const graphs = [root, ...root.subgraphs.values()]
  const hosts = graphs.flatMap((each) => each.nodes.filter((node) => node.subgraph === graph))
  return hosts.length === 1 ? hosts[0] : undefined
}

/**
 * The widget whose value an input takes: the node's own, or that on the subgraph's node where it
 * was promoted. Undefined where a link from another node gives the value.
 *
 * @param {any} node
 * @param {string} name of the input
 * @returns {any}
 */
export function ownerOf(node, name) {
  const slot = node.inputs?.findIndex((input) => input.widget?.name === name) ?? -1
  const link = slot >= 0 ? node.getInputLink(slot) : null
  if (!link) return node.widgets?.find((widget) => widget.name === name)
  if (link.origin_id !== node.graph.inputNode?.id) return undefined
  const host = hostOf(node.graph)
  return host && ownerOf(host, node.graph.inputs[link.origin_slot].name)
}

/** The key of a node's output in app.nodeOutputs. */
const keyOf = (node) => (node.graph.isRootGraph ? `${node.id}` : `${node.graph.id}:${node.id}`)

/** The key of a node's output in a run: the ids of the subgraphs' nodes around it and its own. */
function idInRun(node) {
  if (node.graph.isRootGraph) return `${node.id}`
  const host = hostOf(node.graph)
  return host && `${idInRun(host)}:${node.id}`
}

let runs = 0
api.addEventListener("execution_success", () => runs++)

/** @type {WeakSet<object>} */
const readers = new WeakSet() // nodes that show their output

/**
 * A function that calls `show` with what the last run of a node gave (its `ui`, or an empty object)
 * whenever that is another one, and after each run.
 *
 * @param {any} node
 * @param {(output: Record<string, any>) => void} show
 */
export function withOutput(node, show) {
  readers.add(node)
  let shown = ""
  return () => {
    const output = (node.graph && app.nodeOutputs[keyOf(node)]) ?? {}
    const now = `${runs} ${JSON.stringify(output)}`
    if (now === shown) return
    shown = now
    show(output)
  }
}

/**
 * Outputs that the server has and the frontend has not: after a reload, and where a node's result
 * was in the server's cache from before. They are in the history of this workflow's runs.
 *
 * @param {(id: string | undefined) => boolean} wanted says of which nodes, by their ids in a run
 */
async function recall(wanted) {
  const graphs = [app.graph.rootGraph, ...app.graph.rootGraph.subgraphs.values()]
  const missing = graphs
    .flatMap((graph) => graph.nodes)
    .filter((node) => readers.has(node) && wanted(idInRun(node)) && !app.nodeOutputs[keyOf(node)])
  if (!missing.length) return
  const response = await api.fetchApi(`/history?max_items=${HISTORY}`)
  const runs = Object.values(response.ok ? await response.json() : {}).filter(
    (run) => run.prompt[3]?.extra_pnginfo?.workflow?.id === app.graph.rootGraph.id,
  )
  for (const node of missing) {
    const id = idInRun(node)
    const last = runs.findLast((run) => run.outputs[id])
    if (last) app.nodeOutputs[keyOf(node)] = last.outputs[id]
  }
}

api.addEventListener("execution_cached", ({ detail }) => recall((id) => detail.nodes.includes(id)))

let loads = 0
app.registerExtension({
  name: "imagen.outputs",
  async afterConfigureGraph() {
    if (loads++ === 0) await recall(() => true)
  },
})
