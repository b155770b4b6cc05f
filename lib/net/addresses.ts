/** IP addresses as texts. */
import { isIPv6 } from 'node:net'

/** A socket's peer address: IPv4 without the prefix that dual-stack sockets give it; empty when there is none. */
export function plainAddress(address: string | undefined): string {
  return address === undefined ? '' : address.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '')
}

/** What counts as one peer: an IPv4 address, or the /64 that one customer has of IPv6. */
export function networkOf(address: string): string {
  const plain = plainAddress(address)
  if (!isIPv6(plain)) return plain
  const [head = '', tail] = (plain.split('%')[0] ?? '').split('::')
  const groups = head === '' ? [] : head.split(':')
  if (tail !== undefined) {
    const after = tail === '' ? [] : tail.split(':')
    while (groups.length + after.length < 8) groups.push('0')
    groups.push(...after)
  }
  return groups.slice(0, 4).map((group) => (Number.parseInt(group, 16) || 0).toString(16)).join(':')
}
