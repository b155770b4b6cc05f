import type { Element } from '../../lib/xml/element.ts'

/** How a request ends: `accepted`, or the error's condition with that of XEP-0060. */
export async function refused(request: Promise<Element>): Promise<string> {
  try {
    await request
  } catch (error) {
    const { condition, element } = error as { condition: string; element: Element }
    const own = element.getChild('error')?.getChildElements().find((child) => child.getNS() === 'http://jabber.org/protocol/pubsub#errors')
    return own === undefined ? condition : `${condition} ${own.getName()}`
  }
  return 'accepted'
}
