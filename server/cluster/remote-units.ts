/** What waits for another server is a unit too: at its home alone stanzas go to that server. */
const PREFIX = 's2s:'

/** The unit of another server's domain. No address is like it. */
export function unitOfRemote(domain: string): string { return PREFIX + domain }

/** The domain, if the unit is that of another server. */
export function remoteOfUnit(unit: string): string | undefined {
  return unit.startsWith(PREFIX) ? unit.slice(PREFIX.length) : undefined
}
