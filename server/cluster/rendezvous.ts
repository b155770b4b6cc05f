/** Which node is to be the home of a unit that has none: rendezvous hashing, so that a node that comes or goes moves no others' units. */
import { remoteOfUnit } from './remote-units.ts'
import type { NodeInfo } from './shapes.ts'

/** Whether accounts and rooms live at a node; one that names no roles has all. */
export function takesUnits({ roles }: Pick<NodeInfo, 'roles'>): boolean {
  return roles.length === 0 || roles.includes('chat')
}

/** Whether a node speaks to other servers. */
function takesRemotes({ roles }: Pick<NodeInfo, 'roles'>): boolean {
  return roles.length === 0 || roles.includes('federation')
}

/** The node for a unit among those that take such and are not about to leave; all of them if there is no such node. Nodes are told apart by name, so that one that comes back has its units again. */
export function chooseNode<Node extends Pick<NodeInfo, 'name' | 'roles' | 'leaving'>>(unit: string, nodes: readonly Node[]): Node | undefined {
  let chosen: Node | undefined
  let highest = -1
  // Where no node is there for other servers, each of the rest is.
  const takes = remoteOfUnit(unit) !== undefined && nodes.some(takesRemotes) ? takesRemotes : takesUnits
  for (const node of nodes) {
    if (!takes(node)) continue
    // One that leaves only when all do.
    const weight = hash(`${node.name}\0${unit}`) + (node.leaving ? 0 : 2 ** 32)
    if (weight > highest) {
      highest = weight
      chosen = node
    }
  }
  return chosen
}

/** FNV-1a with the last step of MurmurHash3, which spreads what differs in few characters; 32 bits. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  return (value ^ (value >>> 16)) >>> 0
}
