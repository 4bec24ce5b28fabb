// What the frontend knows of a node: which widget gives an input its value, and what the last run
// gave. Both hold for nodes inside of subgraphs, too.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

const HISTORY = 100 // runs that are looked through

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
  if (!node.graph || slot < 0 || !node.isInputConnected(slot))
    return node.widgets?.find((widget) => widget.name === name)
  const gives = (id) => {
    const link = node.graph.getLink(id)
    return link?.target_id === node.id && link.target_slot === slot
  }
  const outer = node.graph.inputs?.find((input) => input.linkIds.some(gives)) // of a subgraph
  const host = outer && hostOf(node.graph)
  return host && ownerOf(host, outer.name)
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

/** Whether a node, and so all nodes before it, is the same in two prompts. */
function same(a, b, id) {
  if (!a[id] || JSON.stringify(a[id]) !== JSON.stringify(b[id])) return false
  return Object.values(a[id].inputs).every((value) => !Array.isArray(value) || same(a, b, value[0]))
}

/**
 * Outputs that the server has and the frontend has not: take them from the history of runs, from
 * the last one in which the node was as it is in a run of this workflow.
 *
 * @param {(id: string | undefined) => boolean} wanted says of which nodes, by their ids in a run
 * @param {(run: any) => boolean} own says which runs are of this workflow
 */
async function recall(wanted, own) {
  const root = app.graph.rootGraph
  const missing = [root, ...root.subgraphs.values()]
    .flatMap((graph) => graph.nodes)
    .filter((node) => readers.has(node) && wanted(idInRun(node)) && !app.nodeOutputs[keyOf(node)])
  if (!missing.length) return
  const response = await api.fetchApi(`/history?max_items=${HISTORY}`)
  const history = Object.values(response.ok ? await response.json() : {})
  for (const node of missing) {
    const id = idInRun(node)
    const prompt = history.findLast((run) => own(run) && run.prompt[2][id])?.prompt[2]
    const last = history.findLast((run) => run.outputs[id] && same(prompt ?? {}, run.prompt[2], id))
    if (last) app.nodeOutputs[keyOf(node)] = last.outputs[id]
  }
}

// After a reload the frontend has none.
let loads = 0
app.registerExtension({
  name: "imagen.outputs",
  async afterConfigureGraph() {
    if (loads++) return
    const workflow = app.graph.rootGraph.id
    const own = (run) => run.prompt[3]?.extra_pnginfo?.workflow?.id === workflow
    await recall(() => true, own)
  },
})

// The server says nothing anew of a node whose result it had in its cache.
let cached = { prompt_id: "", nodes: [""] }
api.addEventListener("execution_cached", ({ detail }) => (cached = detail))
api.addEventListener("execution_success", ({ detail }) => {
  if (detail.prompt_id !== cached.prompt_id) return
  void recall(
    (id) => cached.nodes.includes(id),
    (run) => run.prompt[1] === detail.prompt_id,
  )
})
